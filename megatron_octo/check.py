"""``python -m megatron_octo.check RECIPE [section.key=value ...]``: find what would stop a run before it starts."""

import argparse

from megatron_octo.common.errors import USER_ERROR, OctoError, run_command
from megatron_octo.recipe.loading import load_recipe
from megatron_octo.training.readiness.checklist import check_recipe


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m megatron_octo.check",
        description="Look for everything that would stop a run: layout, data sets, tokenizer, vocabulary, weights to "
        "start from, run directory, lock and disk. Takes a second, needs no GPU and changes nothing. Exit code 2: "
        "something is wrong. train and submit look, too.",
    )
    parser.add_argument("recipe", help="recipe file (YAML)")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to the recipe")
    parser.add_argument("--ranks", type=int, metavar="N", help="processes that will train (default: one replica's)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = build_parser().parse_intermixed_args(argv)
    if arguments.ranks is not None and arguments.ranks < 1:
        raise OctoError(f"cannot train with {arguments.ranks} processes", where="--ranks")
    found = check_recipe(load_recipe(arguments.recipe, arguments.overrides), arguments.ranks)
    print("\n".join(found.lines()))
    return USER_ERROR if found.problems else 0


if __name__ == "__main__":
    run_command(main)
