"""Look into an indexed dataset or a run: ``python -m megatron_octo.inspect --help``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_octo.common.errors import USER_ERROR, OctoError, run_command

if TYPE_CHECKING:
    from rich.console import Console

_OVERLONG = ["split", "window", "truncate", "skip", "error"]


def build_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m megatron_octo.inspect",
        description="Show what PREFIX.bin and PREFIX.idx hold, or how a run stands, and check it (exit 2: something "
        "is wrong).",
    )
    add = parser.add_argument
    add("prefix", metavar="PREFIX|RUN", help="path of the data set without .bin or .idx, or a run's directory")
    add("--sample", type=int, metavar="K", help="show document K, targets marked (from 0)")
    add("--tokenizer", metavar="tokenizer.json", help="to decode with (default: the one in the manifest)")
    add(
        "--full",
        action="store_true",
        help="read every byte: modes, token ids, digests (of a run: checkpoints)",
    )
    add("--against", metavar="Q", help="compare with another data set, and name the first difference (exit 2)")
    add("--plot", metavar="FILE.png", help="draw lengths and fill (needs the extra [plot])")
    runs = parser.add_argument_group("a run")
    runs.add_argument("--report", metavar="FILE.html", help="write a page with plots, all in one file")
    runs.add_argument(
        "--step",
        type=int,
        metavar="N",
        help="show rows and documents of step N; with --row R the text of its row R",
    )
    rows = parser.add_argument_group("a packed row, as a run with these settings reads it")
    rows.add_argument("--row", type=int, metavar="R", help="show row R (from 0): documents, targets, positions")
    rows.add_argument("--epoch", type=int, default=0, metavar="E", help="of epoch E (default: %(default)s)")
    rows.add_argument("--seq-length", type=int, default=2048, metavar="N", help="positions (default: %(default)s)")
    rows.add_argument("--seed", type=int, default=1234, help="train.seed (default: %(default)s)")
    rows.add_argument("--overlong", choices=_OVERLONG, default="split", help="data.overlong (default: %(default)s)")
    rows.add_argument("--loss-on", choices=["targets", "all"], default="targets", help="train.loss_on")
    rows.add_argument("--fim-rate", type=float, default=0.0, metavar="X", help="data.fim_rate")
    rows.add_argument("--fim-spm-rate", type=float, default=0.0, metavar="X", help="data.fim_spm_rate")
    return parser


def _inspect_run(args: argparse.Namespace, console: "Console") -> int:
    if args.step is not None:
        from megatron_octo.runview.steps import print_step

        print_step(Path(args.prefix), args.step, args.row, args.tokenizer, console)
        return 0
    from megatron_octo.runview.load import load_run
    from megatron_octo.runview.text import print_run

    run = load_run(args.prefix, tail=not args.report, full=args.full)
    good = print_run(run, console)
    if args.report:
        from megatron_octo.runview.page import write_page

        write_page(run, args.report)
        console.print(f"report: {args.report}", highlight=False, markup=False)
    return 0 if good else USER_ERROR


def main(argv: list[str] | None = None) -> int:
    """Show a data set or a run; returns 2 if something is wrong with it."""
    """Run the command; returns its exit code."""
    args = build_parser().parse_args(argv)
    from rich.console import Console

    console = Console()
    # A directory may have the name of a data set beside it.
    if Path(args.prefix).is_dir() and not Path(f"{args.prefix}.idx").is_file():
        return _inspect_run(args, console)
    if args.report is not None or args.step is not None:
        raise OctoError("--report and --step are for a run, and this is no directory", where=args.prefix)
    from megatron_octo.data.planning.settings import RowSettings
    from megatron_octo.data.view.report import report

    if args.seq_length < 1 or not 0 <= args.fim_rate <= 1 or not 0 <= args.fim_spm_rate <= 1:
        raise OctoError("--seq-length is 1 or more, rates are from 0 to 1", where="command line")
    prefix, other = (name and name.removesuffix(".idx").removesuffix(".bin") for name in (args.prefix, args.against))
    settings = RowSettings(
        cache_dir="",  # rows are planned in a temporary folder
        seq_length=args.seq_length,
        seed=args.seed,
        overlong=args.overlong,
        loss_on=args.loss_on,
        fim_rate=args.fim_rate,
        fim_spm_rate=args.fim_spm_rate,
    )
    good = report(
        prefix,
        sample=args.sample,
        tokenizer=args.tokenizer,
        full=args.full,
        console=console,
        against=other,
        row=args.row,
        epoch=args.epoch,
        settings=settings,
    )
    if args.plot:
        from megatron_octo.data.view.plot import plot

        plot(prefix, args.plot)
        console.print(f"plot: {args.plot}", highlight=False, markup=False)
    return 0 if good else USER_ERROR


if __name__ == "__main__":
    run_command(main)
