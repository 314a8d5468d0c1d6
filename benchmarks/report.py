"""From a run's CSV files to tables and pictures: printed, and where asked for put into README.md and docs."""

from __future__ import annotations

import os
import pathlib
import platform
from typing import Any

from benchmarks import records, runs, tables
from benchmarks.bars import bars
from benchmarks.chart import ratios_chart
from benchmarks.ratios import summarise
from benchmarks.shapes import LAYOUTS

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
NAMES = ("memory", "paths", "tiny", "dispatch", "traffic", "halo_exchange", "training_step")
MODES = ("forward+backward", "forward")

TINY = {
    "layer": "layer on 1x8x32x32",
    "contender": "contender",
    "local_us": "local, us a call",
    "more_us": "more than local, us",
    "more_us_q1": "lower quartile",
    "more_us_q3": "upper quartile",
}
DISPATCH = {
    "op": "op on 1x8x32x32",
    "aten_ops": "ATen ops",
    "moved": "what moves",
    "plain_us": "plain, us a call",
    "more_us": "more than plain, us",
    "more_us_q1": "lower quartile",
    "more_us_q3": "upper quartile",
}
EXCHANGE = {
    "bytes": "bytes each way",
    "raw_us": "raw MPI, us",
    "graticule_us": "graticule, us",
    "ratio": "ratio",
    "ratio_q1": "lower quartile",
    "ratio_q3": "upper quartile",
}
STEP = {
    "contender": "a training step of the U-Net on",
    "median_ms": "ms",
    "ratio": "of one rank's time",
    "ratio_q1": "lower quartile",
    "ratio_q3": "upper quartile",
}


def load(out: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    """Every table of a run, by name; layers from the turns, which become layers.csv."""
    found: dict[str, list[dict[str, Any]]] = {name: records.read(out / f"{name}.csv") for name in NAMES}
    found["layers"] = summarise(records.read(out / "turns.csv"))
    if found["layers"]:
        records.write(out / "layers.csv", found["layers"])
    return found


def machine() -> str:
    """What the numbers were measured on."""
    import torch

    model = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{os.cpu_count()} cores of {model}, torch {torch.__version__}, {platform.system()}"


def sections(found: dict[str, list[dict[str, Any]]], judge: bool) -> dict[str, str]:
    """Markdown by the name of the place where it belongs; bars only with `judge`."""
    result = {"machine": f"Measured on {machine()}."}
    for layout in LAYOUTS:
        for mode in MODES:
            if any(r["layout"] == layout and r["mode"] == mode for r in found["layers"]):
                result[f"{layout} {mode}"] = tables.layers_table(found["layers"], layout, mode)
    if found["memory"]:
        result["memory"] = tables.memory_table(found["memory"])
    if found["paths"]:
        result["paths"] = tables.paths_table(found["paths"])
    if found["traffic"]:
        result["traffic"] = tables.traffic_table(found["traffic"])
    columns_of = {"tiny": TINY, "dispatch": DISPATCH, "halo_exchange": EXCHANGE, "training_step": STEP}
    for name, columns in columns_of.items():
        if found[name]:
            result[name] = tables.plain_table(found[name], columns)
    promised = bars(found) if judge else []
    if promised:
        result["bars"] = tables.bars_table(promised)
        result["short bars"] = tables.short_bars_table(promised)
    return result


def pictures(layers: list[dict[str, Any]], ranks: int) -> dict[str, str]:
    """SVG by the name of its file, of a run on so many ranks."""
    result = {}
    for layout in LAYOUTS:
        chosen = [r for r in layers if r["layout"] == layout and r["mode"] == "forward+backward"]
        if chosen:
            title = f"Forward and backward, {ranks} ranks of one thread, {layout}"
            result[f"benchmark-{layout}.svg"] = ratios_chart(chosen, title)
    return result


def insert(text: str, place: str, content: str) -> str:
    """`text` with `content` between the comments that mark `place`; as it is where there are none."""
    begin, end = f"<!-- bench: {place} -->", f"<!-- end: {place} -->"
    if begin not in text or end not in text:
        return text
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end, 1)[1]}"


def report(out: pathlib.Path, publish: bool, judge: bool, ranks: int) -> str:
    """Writes layers.csv, bars.csv and pictures into `out`, and into the documents where asked; returns the text.

    ValueError where the documents were to be given a smoke or --full run.
    """
    if publish:
        runs.expect_standard(out)
    found = load(out)
    if judge and bars(found):
        records.write(out / "bars.csv", [bar.record() for bar in bars(found)])
    drawn = pictures(found["layers"], ranks)
    for name, picture in drawn.items():
        (out / name).write_text(picture)
        if publish:
            (REPOSITORY / "docs" / "images" / name).write_text(picture)
    written = sections(found, judge)
    if publish:
        for document in (REPOSITORY / "README.md", REPOSITORY / "docs" / "benchmarks.md"):
            text = document.read_text()
            for place, content in written.items():
                text = insert(text, place, content)
            document.write_text(text)
    return "\n\n".join(f"{place}\n\n{content}" for place, content in written.items())
