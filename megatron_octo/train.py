"""``python -m megatron_octo.train RECIPE.yaml [section.key=value ...]``: train, or resume where the run stands.

Starts under torchrun, under srun, or by itself with ``--nproc N`` on one machine.
"""

import argparse
import faulthandler
import os
import sys
from datetime import timedelta

from megatron_octo.common.errors import OctoError, run_command
from megatron_octo.recipe.loading import dump_recipe, load_recipe, replicas_of
from megatron_octo.recipe.reference import HelpKeys
from megatron_octo.recipe.schema import Recipe
from megatron_octo.runfiles.signals import StopRequest
from megatron_octo.training.supervision import launch

EPILOG = """exit codes: 0 finished; 2 a mistake to mend (bad recipe, bad data, full disk);
75 stopped by SIGTERM, SIGUSR1, SIGUSR2 or the wall clock with everything saved: start the same command again;
76 a rank died or hung: start the same command again, it resumes from the last checkpoint."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m megatron_octo.train",
        description="Train a code language model from a recipe; resumes by itself when the run has a checkpoint.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="recipe file (YAML); --help-keys describes the keys")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to the recipe")
    parser.add_argument("--help-keys", action=HelpKeys)
    parser.add_argument("--nproc", type=int, help="start this many processes on this machine (default: 1)")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_intermixed_args(argv)
    if arguments.nproc is not None and arguments.nproc < 1:
        raise OctoError(f"cannot start {arguments.nproc} processes", where="--nproc")
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if recipe.system.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if arguments.nproc and arguments.nproc > 1:
        replicas_of(recipe, arguments.nproc)
        return launch.start_ranks(arguments.nproc, [arguments.recipe, *arguments.overrides])
    # --nproc 1 means one process, whatever torchrun's or srun's variables say.
    if arguments.nproc == 1 or not launch.adopt_environment():
        launch.stand_alone()
    replicas_of(recipe, int(os.environ["WORLD_SIZE"]))
    return run(recipe)


def run(recipe: Recipe) -> int:
    """One rank of a run: join the others, train, leave. torch's environment variables are set."""
    stop = StopRequest()  # imports take seconds, and a signal may come during them
    _settings_before_torch(recipe)
    import torch
    import torch.distributed as dist

    from megatron_octo.model.platform.mcore import load_mcore
    from megatron_octo.training.engine.device import own_device

    device = own_device(recipe.system.device)
    load_mcore()
    from megatron_octo.model.platform.grid import Grid
    from megatron_octo.training.loop import Run
    from megatron_octo.training.supervision.error_policy import supervised
    from megatron_octo.training.supervision.rank_agent import Watch, longest_wait
    from megatron_octo.training.supervision.rendezvous import meet

    faulthandler.enable()  # a crash of native code shows where
    minutes = recipe.system.timeout_minutes
    wait = timedelta(seconds=longest_wait(minutes))
    store = meet(timedelta(minutes=minutes))
    store.set_timeout(wait)  # NCCL sets its communicators up through it, within the time-out of all others
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=wait,
        # No device_id: with one, NCCL makes a communicator for each of megatron-core's groups at once, used or not, and
        # they take GPU memory (6.5 GiB of each of two H100). own_device has said which GPU is this rank's.
    )
    if recipe.system.deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        # Filling fresh memory shows its use; that is a test's matter, and costs time.
        setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 - not in torch's stubs
    watch = Watch(dist.get_rank(), dist.get_world_size(), minutes)
    with supervised(watch):
        if watch.rank == 0:
            print(f"# resolved recipe\n{dump_recipe(recipe)}", flush=True)
        grid = Grid.build(recipe.parallel, device, recipe.train.seed, wait)
        code = Run(recipe, grid, stop, watch).train()
        dist.barrier()
        watch.close()
    dist.destroy_process_group()
    return code


def _settings_before_torch(recipe: Recipe) -> None:
    # The last operations between ranks are remembered, for gloo, too: a hang can be told from a wait.
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "200")
    # Overlap of communication and compute under tensor parallelism relies on one hardware queue.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    if recipe.system.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        os.environ["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] = "0"
        os.environ.setdefault("NCCL_ALGO", "Ring")


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
