"""``python -m megatron_octo.train RECIPE.yaml [section.key=value ...]``: train, or resume from the last checkpoint.

Starts under torchrun, under srun, or by itself with ``--nproc N`` on one machine.
"""

import argparse
import faulthandler
import os
import sys
from datetime import timedelta

from megatron_octo.common.errors import OctoError, run_command
from megatron_octo.recipe.loading import load_recipe
from megatron_octo.recipe.reference import HelpKeys
from megatron_octo.recipe.schema import Recipe
from megatron_octo.recipe.summary import summary
from megatron_octo.runfiles.signals import StopRequest
from megatron_octo.training.supervision import launch

EPILOG = """exit codes: 0 finished; 2 a mistake to fix (bad recipe, bad data, full disk);
75 stopped by SIGTERM, SIGUSR1, SIGUSR2, Ctrl-C or the wall clock with everything saved: start the same command again;
76 a rank died or hung: start the same command again, it resumes from the last checkpoint;
130 Ctrl-C came twice: left at once, nothing was saved since the last checkpoint."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
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
    """Run the command; return its exit code.

    Raises:
        OctoError: arguments, recipe or environment are wrong.
    """
    arguments = build_parser().parse_intermixed_args(argv)
    if arguments.nproc is not None and arguments.nproc < 1:
        raise OctoError(f"cannot start {arguments.nproc} processes", where="--nproc")
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if recipe.system.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from megatron_octo.training.readiness.checklist import check_recipe

    if arguments.nproc and arguments.nproc > 1:
        check_recipe(recipe, arguments.nproc, lock=False).stop()
        return launch.start_ranks(arguments.nproc, [arguments.recipe, *arguments.overrides])
    # --nproc 1 means one process, whatever torchrun's or srun's variables say.
    if arguments.nproc == 1 or not launch.adopt_environment():
        launch.stand_alone()
        check_recipe(recipe, 1, lock=False).stop()  # the lock waits for an owner that is leaving
    world = int(os.environ["WORLD_SIZE"])
    recipe.parallel.layout.replicas(world)
    launch.allow_open_files(world)
    return run(recipe)


def run(recipe: Recipe) -> int:
    """Join the other ranks, train and leave; return the exit code. torch's environment variables are set."""
    stop = StopRequest()  # imports take seconds, and a signal may come during them
    settings_before_torch(recipe)
    import torch
    import torch.distributed as dist

    from megatron_octo.model.platform.mcore import load_mcore
    from megatron_octo.training.engine.device import own_device

    device = own_device(recipe.system.device)
    load_mcore()
    from megatron_octo.model.platform.grid import Grid
    from megatron_octo.training.loop import Training
    from megatron_octo.training.run import Run
    from megatron_octo.training.supervision.error_policy import supervised
    from megatron_octo.training.supervision.rank_agent import Watch, longest_wait
    from megatron_octo.training.supervision.rendezvous import meet

    faulthandler.enable()  # a crash of native code shows where
    minutes = recipe.system.timeout_minutes
    wait = timedelta(seconds=longest_wait(minutes))
    store = meet(timedelta(minutes=minutes), stop)
    store.set_timeout(wait)  # NCCL sets its communicators up through it, within the time-out of all others
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=wait,
        # No device_id: with one, NCCL makes a communicator for each of megatron-core's groups at once, used or not, and
        # they take GPU memory (6.5 GiB of each of two H100). own_device has chosen this rank's GPU.
    )
    if recipe.system.deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        # Filling fresh memory shows its use, which is for tests, and costs time.
        setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 - not in torch's stubs
    watch = Watch(dist.get_rank(), dist.get_world_size(), minutes, stop)
    with supervised(watch):
        if watch.rank == 0:
            print("\n".join(summary(recipe, watch.world)), flush=True)
        grid = Grid.build(recipe.parallel.layout, device, recipe.train.seed, wait)
        code = Run(recipe, grid, stop, watch).train(lambda run: Training(run).train())
        dist.barrier()
        watch.close()
    dist.destroy_process_group()
    return code


def settings_before_torch(recipe: Recipe) -> None:
    """Set environment variables that torch and CUDA read when they are loaded; a user's own values win."""
    # torch records the last operations between ranks, for gloo, too: they tell a rank that hangs from one that waits.
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "200")
    # Overlap of communication and compute under tensor parallelism needs a single hardware queue.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    if recipe.system.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        os.environ["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] = "0"
        os.environ.setdefault("NCCL_ALGO", "Ring")


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
