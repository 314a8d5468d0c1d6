"""Pictures of ratios, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

COLOURS = {
    "local": "#8c959f",
    "serial": "#bf8700",
    "concat": "#cf222e",
    "mpi": "#0969da",
    "gloo": "#1a7f37",
}
LABELS = {
    "local": "local work alone (against itself)",
    "serial": "uncut layer, as many threads as ranks",
    "concat": "halo by concatenation",
    "mpi": "graticule over MPI",
    "gloo": "graticule over Gloo",
}
LEFT, WIDTH, STEP, TOP, BAR = 390, 420, 66, 74, 10
LEAST, MOST = 0.8, 2.0


def _x(ratio: float) -> float:
    return LEFT + (min(max(ratio, LEAST), MOST) - LEAST) / (MOST - LEAST) * WIDTH


def _text(x: float, y: float, text: str, size: int = 12, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'


def _whiskers(y: float, record: dict[str, Any], colour: str) -> list[str]:
    """A dot at the median, a line between the quartiles, and the number; beyond the scale the number alone tells."""
    low, middle, high = (float(record[key]) for key in ("ratio_q1", "ratio", "ratio_q3"))
    return [
        f'<line x1="{_x(low):.1f}" y1="{y:.1f}" x2="{_x(high):.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="3"/>',
        f'<circle cx="{_x(middle):.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>',
        _text(_x(max(high, middle)) + 9, y + 3.5, f"{middle:.2f}", 10),
    ]


def ratios_chart(layers: Sequence[dict[str, Any]], title: str) -> str:
    """Times over the local layer's, median and quartiles: one group a row, one line a contender."""
    rows = list(dict.fromkeys(r["row"] for r in layers))
    height = TOP + STEP * len(rows) + 46
    bottom = height - 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 70}" height="{height}" '
        'font-family="sans-serif" fill="#1f2328">',
        '<rect width="100%" height="100%" fill="white"/>',
        _text(16, 24, title, 15),
    ]
    for i, (name, label) in enumerate(LABELS.items()):
        x, y = 16 + i % 3 * 275, 44 + i // 3 * 16
        parts.append(f'<circle cx="{x + 4}" cy="{y - 4}" r="4" fill="{COLOURS[name]}"/>')
        parts.append(_text(x + 14, y, label, 11))
    for tick in range(round(LEAST * 10), round(MOST * 10) + 1, 2):
        x = _x(tick / 10)
        colour = "#57606a" if tick == 10 else "#d8dee4"
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" stroke="{colour}"/>')
        parts.append(_text(x, bottom + 16, f"{tick / 10:.1f}", 11, "middle"))
    parts.append(
        _text(LEFT + WIDTH / 2, bottom + 33, "time over the local layer's (dot: median, line: quartiles)", 11, "middle")
    )
    for i, row in enumerate(rows):
        top = TOP + STEP * i
        parts.append(_text(LEFT - 12, top + STEP / 2 + 4, row, 11, "end"))
        of = {r["contender"]: r for r in layers if r["row"] == row and r["base"] == "local"}
        shown = {"local": of.get("null"), **{name: of.get(name) for name in ("serial", "concat", "mpi", "gloo")}}
        for j, (name, record) in enumerate(shown.items()):
            if record is not None:
                parts += _whiskers(top + 12 + j * BAR, record, COLOURS[name])
    return "\n".join([*parts, "</svg>", ""])
