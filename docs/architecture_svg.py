"""Draw docs/architecture.svg: the way of the data, and the rooms in their order, which pyproject.toml states."""

import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

PROJECT = Path(__file__).parents[1]
TARGET = PROJECT / "docs/architecture.svg"
WIDTH = 1080

# Each step: what it is, and where it happens.
WAY = [
    ("jsonl, parquet", "your files"),
    ("tokens", "data/preprocessing"),
    ("data set", "data/dataset"),
    ("packed rows", "data/planning"),
    ("batches", "training/engine"),
    ("network", "model"),
    ("checkpoint", "training/state"),
    ("Hugging Face", "conversion"),
]
PURPOSE = {
    "cluster": "SLURM: submit, chain, restart, status",
    "runview": "a run seen from outside",
    "evaluation": "HumanEvalPack: samples, sandbox, verdicts, scores",
    "commits": "commit data: sources, rules, duplicates, secrets, reports",
    "training": "engine, state, supervision; preflight; loop",
    "conversion": "readers and writers of other formats, proof of equality",
    "sizing": "memory, FLOPs, time and disk of a recipe; no torch",
    "model": "process grid, attention, Megatron-core's and our fused layers",
    "runfiles": "files of a run that others read: attempts, lock, samples",
    "checkpoint": "files of a checkpoint and their digests",
    "data": "text, data sets, preprocessing, planning, rows",
    "recipe": "all settings of a run: reading, checks, reference",
    "architectures": "parameters of each architecture, here and in Hugging Face",
    "config": "sections of a recipe and their fields",
    "common": "errors, files, strict YAML",
}
_STYLE = """
  text { font: 14px system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; }
  .head { font-weight: 600; font-size: 15px; } .name { font-weight: 600; }
  .soft { font-size: 12px; } .way { font-size: 13px; }
"""
# Background, boxes, their edges, text, secondary text, arrows.
_LIGHT = ("#ffffff", "#eef3fb", "#6b87b3", "#14233b", "#52627c", "#b3653a")
_DARK = ("#10151d", "#1c2735", "#6f8db8", "#e8eef7", "#a5b4c9", "#e39a6b")


def _colours(back: str, box: str, edge: str, text: str, soft: str, line: str) -> str:
    return (
        f".back {{ fill: {back} }} .box {{ fill: {box}; stroke: {edge} }} text {{ fill: {text} }} "
        f".soft {{ fill: {soft} }} .line {{ stroke: {line}; stroke-width: 2; fill: none }} .tip {{ fill: {line} }}"
    )


def rooms() -> list[list[str]]:
    """Return the layers of the first contract in pyproject.toml, highest first; commands are one layer."""
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    return [[name.strip() for name in layer.split("|")] for layer in layers]


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def _box(x: float, y: float, width: float, height: float) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" class="box"/>'


def _arrow(x: float, y: float, dx: float, dy: float) -> str:
    """Draw a line from (x, y) with a tip at its end; along one axis only."""
    end_x, end_y, side = x + dx, y + dy, 5
    ux, uy = (dx > 0) - (dx < 0), (dy > 0) - (dy < 0)
    base_x, base_y = end_x - 8 * ux, end_y - 8 * uy
    corners = [
        (end_x, end_y),
        (base_x + side * uy, base_y + side * ux),
        (base_x - side * uy, base_y - side * ux),
    ]
    tip = " ".join(f"{corner_x:g},{corner_y:g}" for corner_x, corner_y in corners)
    line = f'<path class="line" d="M{x:g} {y:g}L{base_x:g} {base_y:g}"/>'
    return f'{line}<polygon class="tip" points="{tip}"/>'


def _way(top: float) -> list[str]:
    gap = 14.0
    width = (WIDTH - 40 - gap * (len(WAY) - 1)) / len(WAY)
    parts = [_text(20, top, "The way of the data", "head")]
    for number, (what, where) in enumerate(WAY):
        x = 20 + number * (width + gap)
        parts += [_box(x, top + 16, width, 52)]
        parts += [_text(x + width / 2, top + 38, what, "name way", "middle")]
        parts += [_text(x + width / 2, top + 57, where, "soft", "middle")]
        if number:
            parts.append(_arrow(x - gap, top + 42, gap, 0))
    return parts


def _rooms(top: float) -> tuple[list[str], float]:
    parts, y = [_text(20, top, "The rooms: each imports only from those below it", "head")], top + 16
    layers = rooms()
    commands = [name for layer in layers[:2] for name in layer]
    rows = [[("commands", ", ".join(commands[1:]) + "; " + commands[0])]]
    rows += [[(name, PURPOSE[name]) for name in layer] for layer in layers[2:]]
    for row in rows:
        width = (WIDTH - 100 - 12 * (len(row) - 1)) / len(row)
        for number, (name, purpose) in enumerate(row):
            x = 60 + number * (width + 12)
            parts += [_box(x, y, width, 32), _text(x + 12, y + 21, name, "name")]
            parts += [_text(x + (136 if len(row) == 1 else 112), y + 21, purpose, "soft")]
        y += 40
    parts.append(_arrow(36, top + 20, 0, y - top - 32))
    return parts, y


def draw() -> str:
    """Return the picture as SVG text."""
    below, height = _rooms(136)
    body = "\n".join([*_way(32), *below])
    size = f'viewBox="0 0 {WIDTH} {height + 12:g}" width="{WIDTH}" height="{height + 12:g}"'
    dark = f"@media (prefers-color-scheme: dark) {{ {_colours(*_DARK)} }}"
    style = f"{_STYLE}  {_colours(*_LIGHT)}\n  {dark}\n"
    title = "<title>megatron_octo: way of the data and order of the rooms</title>"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n{title}\n<style>{style}</style>\n'
        f'<rect width="100%" height="100%" class="back" rx="8"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    TARGET.write_text(draw(), encoding="utf-8")
