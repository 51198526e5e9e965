"""``python -m megatron_octo.schema``: print the JSON schema of recipes, or bring generated files up to date."""

import argparse
import json
from pathlib import Path

from megatron_octo.common.errors import OctoError, run_command
from megatron_octo.recipe.reference import json_schema, update_page


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m megatron_octo.schema",
        description="Print the JSON schema of recipes: editors check and complete recipes with it.",
        epilog="train --help-keys [SECTION] shows the same descriptions in a terminal.",
    )
    parser.add_argument(
        "--update",
        nargs="+",
        metavar="FILE",
        help="write instead: a .json becomes the schema, a .md gets its generated part anew",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    schema = json.dumps(json_schema(), indent=1)
    if not arguments.update:
        print(schema)
    for path in map(Path, arguments.update or ()):
        if path.suffix == ".json":
            path.write_text(schema + "\n", encoding="utf-8")
        elif path.suffix == ".md":
            text = path.read_text(encoding="utf-8")
            path.write_text(update_page(text, str(path)), encoding="utf-8")
        else:
            raise OctoError("neither .json nor .md", where=path)
    return 0


if __name__ == "__main__":
    run_command(main)
