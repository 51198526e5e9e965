"""Line charts and a timeline as inline SVG. Colours come from the page's style sheet (page.py)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_octo.common.quoting import markup

Array = NDArray[np.float64]

WIDTH, HEIGHT = 560, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 12, 30
POINTS = 500  # per line; more would not be visible


@dataclass(frozen=True)
class Series:
    """A line: a name and its points [N], and the band around them if it has one, [N] each."""

    name: str
    x: Array
    y: Array
    band: tuple[Array, Array] | None = None


@dataclass(frozen=True)
class Mark:
    """A vertical line, such as a restart: at ``x``, with a text that shows under the pointer."""

    x: float
    text: str


def thin(x: Array, y: Array, points: int = POINTS) -> tuple[Array, Array, Array, Array]:
    """Reduce a curve to at most ``points`` pieces of equally many values: x, mean, least and largest, [points].

    Values that are not finite are dropped; a peak is the least or the largest of its piece.
    """
    known = np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) <= points:
        return x, y, y, y
    edges = np.linspace(0, len(x), points + 1).astype(int)[:-1]
    counts = np.diff(np.append(edges, len(x)))
    mean = np.add.reduceat(y, edges) / counts
    middle = np.add.reduceat(x, edges) / counts
    return middle, mean, np.minimum.reduceat(y, edges), np.maximum.reduceat(y, edges)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers from ``low`` to ``high``: 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return logarithms of round numbers in a range: powers of ten, else 1, 2 and 5 times them, else any."""
    found = [float(n) for n in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]
    if len(found) >= 4:
        return found[:: 1 + len(found) // 7]
    found = [n + math.log10(f) for n in range(math.floor(low), math.ceil(high) + 1) for f in (1, 2, 5)]
    found = [value for value in found if low <= value <= high]
    return found if len(found) >= 3 else [math.log10(value) for value in ticks(10**low, 10**high) if value > 0]


def number(value: float) -> str:
    """Return a short number: 12.3k, 4.5M, 6.7B, 1.2e-4."""
    size = abs(value)
    for limit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e3 if name == 'k' else limit):.4g}{name}"
    if size and size < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-")
    return f"{value:.4g}"


def _range(values: Array) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        room = abs(high) * 0.05 or 1.0
        return low - room, high + room
    return low - 0.04 * (high - low), high + 0.04 * (high - low)


class _Axes:
    def __init__(self, x: tuple[float, float], y: tuple[float, float]):
        self.x, self.y = x, y

    def left(self, x: Array) -> Array:
        return _LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - _LEFT - _RIGHT)

    def top(self, y: Array) -> Array:
        return _TOP + (self.y[1] - y) / (self.y[1] - self.y[0]) * (HEIGHT - _TOP - _BOTTOM)

    def points(self, x: Array, y: Array) -> str:
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(self.left(x), self.top(y)))


def line_chart(series: Sequence[Series], marks: Sequence[Mark] = (), *, log: bool = False) -> str:
    """Draw an SVG with a line per series, over its band, or the range of least and largest where points were thinned.

    Args:
        series: the lines.
        marks: vertical lines.
        log: logarithmic ordinate; values that are not above 0 are left out.

    Returns:
        "" if no series has a finite value.
    """
    curves, abscissae = [], []
    for one in series:
        x, y = one.x, one.y
        if log:
            x, y = x[y > 0], np.log10(y[y > 0])
        thinned = _banded(one, thin(x, y))
        if len(thinned[0]):
            curves.append((one.name, thinned))
            abscissae.append(x[np.isfinite(y)])
    if not curves:
        return ""
    axes = _Axes(
        _whole(np.concatenate(abscissae)),
        _range(np.concatenate([part for _, thinned in curves for part in thinned[2:]])),
    )
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">', *_grid(axes, log)]
    for mark in marks:
        if axes.x[0] <= mark.x <= axes.x[1]:
            at = float(axes.left(np.array(mark.x)))
            parts.append(
                f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}">'
                f"<title>{markup(mark.text)}</title></line>"
            )
    for order, (name, (x, mean, low, high)) in enumerate(curves):
        if (low != high).any():
            band = axes.points(np.concatenate([x, x[::-1]]), np.concatenate([low, high[::-1]]))
            parts.append(f'<polygon class="band s{order}" points="{band}"/>')
        title = f"<title>{markup(name)}</title>"
        if len(x) == 1:
            a, b = float(axes.left(x)[0]), float(axes.top(mean)[0])
            parts.append(f'<circle class="dot s{order}" cx="{a:.1f}" cy="{b:.1f}" r="3">{title}</circle>')
        else:
            parts.append(f'<polyline class="line s{order}" points="{axes.points(x, mean)}">{title}</polyline>')
    if len(curves) > 1:
        # Rising curves leave the upper left corner free, falling ones the right.
        rises = curves[0][1][1][-1] > curves[0][1][1][0]
        at, side = (_LEFT + 10, "left") if rises else (WIDTH - _RIGHT - 6, "right")
        for order, (name, _) in enumerate(curves):
            parts.append(
                f'<text class="legend {side} s{order}" x="{at}" y="{_TOP + 14 + 15 * order}">{markup(name)}</text>'
            )
    return "\n".join([*parts, "</svg>"])


def _banded(one: Series, thinned: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
    """Return a curve with the series' own band, unless points were thinned."""
    return (*thinned[:2], *one.band) if one.band and len(thinned[0]) == len(one.x) else thinned


def _whole(x: Array) -> tuple[float, float]:
    low, high = float(x.min()), float(x.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _grid(axes: _Axes, log: bool) -> list[str]:
    parts = []
    for value in _log_ticks(*axes.y) if log else ticks(*axes.y):
        at = float(axes.top(np.array(value)))
        label = number(10**value if log else value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick y" x="{_LEFT - 6}" y="{at + 4:.1f}">{label}</text>')
    for value in ticks(*axes.x, count=6):
        at = float(axes.left(np.array(value)))
        parts.append(f'<text class="tick x" x="{at:.1f}" y="{HEIGHT - _BOTTOM + 16}">{number(value)}</text>')
    base = HEIGHT - _BOTTOM
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
    return parts


@dataclass(frozen=True)
class Bar:
    """A piece of a timeline, in seconds; ``kind`` is a class of the style sheet: good, stopped, bad."""

    start: float
    end: float
    kind: str
    text: str


def timeline(bars: Sequence[Bar]) -> str:
    """Draw bars on one line of time since the first began; their texts show under the pointer."""
    if not bars:
        return ""
    width, height = 2 * WIDTH + 20, 64
    first, last = min(bar.start for bar in bars), max(bar.end for bar in bars)
    unit, name = next(
        (s, n)
        for s, n in ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "s"))
        if last - first > 2 * s or s == 1
    )
    span = max(last - first, 1e-9)
    scale = (width - 2 * _RIGHT) / span
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img">']
    for bar in bars:
        left, size = _RIGHT + (bar.start - first) * scale, max(1.5, (bar.end - bar.start) * scale - 1)
        parts.append(
            f'<rect class="bar {bar.kind}" x="{left:.1f}" y="8" width="{size:.1f}" height="26" rx="2">'
            f"<title>{markup(bar.text)}</title></rect>"
        )
    for value in ticks(0, span / unit, 8):
        at = _RIGHT + value * unit * scale
        parts.append(f'<text class="tick x" x="{at:.1f}" y="52">{number(value)}</text>')
    parts.append(f'<text class="tick y" x="{width - _RIGHT}" y="63">{name} since the first start</text>')
    return "\n".join([*parts, "</svg>"])
