"""Markdown tables of a run's records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.bars import Bar

Records = list[dict[str, Any]]
CONTENDERS = ("null", "serial", "concat", "concat_kept", "mpi", "gloo")


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table; columns but the first are right-aligned."""
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def layers_table(layers: Records, layout: str, mode: str) -> str:
    """Ratios to the local layer, with their quartiles, and what serial and concatenation take of graticule's time."""
    head = ["layer", "size", "local ms", *CONTENDERS[:3], "over MPI", "over Gloo", "serial / MPI", "concat / MPI"]
    lines = []
    chosen = [r for r in layers if r["layout"] == layout and r["mode"] == mode]
    for row in dict.fromkeys(r["row"] for r in chosen):
        of = {(r["contender"], r["base"]): r for r in chosen if r["row"] == row}
        null = of["null", "local"]
        to_local = [_ratio(of.get((name, "local"))) for name in ("null", "serial", "concat", "mpi", "gloo")]
        to_mpi = [_ratio(of.get((name, "mpi"))) for name in ("serial", "concat")]
        lines.append([row, null["scale"], null["base_median_ms"], *to_local, *to_mpi])
        kept = of.get(("concat_kept", "local"))
        if kept:
            note = f"{row}: concatenation of halo rows in the shard's format"
            lines.append(
                [
                    note,
                    null["scale"],
                    null["base_median_ms"],
                    "",
                    "",
                    _ratio(kept),
                    *[""] * 3,
                    _ratio(of["concat_kept", "mpi"]),
                ]
            )
    return markdown(head, lines)


def _ratio(record: dict[str, Any] | None) -> str:
    if record is None:
        return "n/a"
    return f"{float(record['ratio']):.3f} ({float(record['ratio_q1']):.3f} to {float(record['ratio_q3']):.3f})"


def plain_table(table: Records, columns: dict[str, str]) -> str:
    """The named columns under the names that they map to."""
    return markdown(list(columns.values()), [[str(r[c]) for c in columns] for r in table])


def memory_table(peaks: Records) -> str:
    head = ["layer", "layout", "serial share", "strips", "local", "graticule", "concat", "graticule / (share + strips)"]
    fields = ("share_bytes", "strip_bytes", "local_bytes", "graticule_bytes", "concat_bytes")
    lines = [[r["row"], r["layout"], *(_megabytes(r[f]) for f in fields), r["ratio"]] for r in peaks]
    return markdown(head, lines)


def _megabytes(value: str) -> str:
    return "n/a" if value == "" else f"{int(value) / 1e6:.2f} MB"


def paths_table(paths: Records) -> str:
    """One line a row and layout, or a row whose layouts go alike."""
    lines = []
    for row in dict.fromkeys(r["row"] for r in paths):
        of = {r["layout"]: (r["path_forward"], r["path_backward"]) for r in paths if r["row"] == row}
        layouts = {", ".join(of): next(iter(of.values()))} if len(set(of.values())) == 1 else of
        lines += [[row, layout, forward, backward] for layout, (forward, backward) in layouts.items()]
    return markdown(["layer", "layout", "forward", "backward"], lines)


def traffic_table(counts: Records) -> str:
    """One line a row: sums over 2 to 6 ranks, for how many of them the prediction holds, and what an inner one of 3 to
    6 sends.
    """
    head = [
        "layer",
        "messages on 2, 3, 4, 5, 6 ranks",
        "predicted",
        "bytes",
        "predicted",
        "ranks as predicted",
        "an inner rank's messages on 3, 4, 5, 6",
        "predicted",
        "bytes",
        "predicted",
    ]
    lines = []
    for row in dict.fromkeys(r["row"] for r in counts):
        of = [r for r in counts if r["row"] == row]
        sums = _entries(of, "messages", "predicted_messages", "bytes", "predicted_bytes")
        inner = _entries(of, "inner_messages", "predicted_inner_messages", "inner_bytes", "predicted_inner_bytes")
        alike = [str(r["ranks_as_predicted"]) for r in of]
        as_predicted = "all" if alike == [str(r["ranks"]) for r in of] else ", ".join(alike)
        lines.append([row, *map(", ".join, sums), as_predicted, *map(_once_if_alike, inner)])
    return markdown(head, lines)


def _entries(of: Records, *names: str) -> list[list[str]]:
    """Of each name, those that there are: two ranks have no inner one."""
    return [[str(r[name]) for r in of if r[name] != ""] for name in names]


def _once_if_alike(values: list[str]) -> str:
    return ", ".join(values[:1] if len(set(values)) == 1 else values)


def bars_table(bars: Sequence[Bar]) -> str:
    records = [bar.record() for bar in bars]
    return markdown(["bar", "limit", "measured", "noise", "met"], [list(r.values()) for r in records])


def _count(verdicts: list[str]) -> str:
    by_noise = verdicts.count("by noise")
    return f"{verdicts.count('yes')} of {len(verdicts)}" + (f", {by_noise} more by noise" if by_noise else "")


def short_bars_table(bars: Sequence[Bar]) -> str:
    """One line a kind of bar: how many are met, and the one furthest from its limit, a missed one if there is any."""
    kinds: dict[str, list[Bar]] = {}
    for bar in bars:
        kinds.setdefault(_kind(bar), []).append(bar)
    lines = []
    for kind, group in kinds.items():
        worst = max(group, key=lambda b: (not b.met, b.excess))
        record = worst.record()
        lines.append(
            [
                kind,
                record["limit"],
                _count([b.verdict for b in group]),
                record["measured"],
                worst.name.rsplit(":", 1)[0],
            ]
        )
    return markdown(["bar", "limit", "met", "the worst", "which"], lines)


def _kind(bar: Bar) -> str:
    subject, measure = bar.name.rsplit(": ", 1)
    layout = (
        ", channels_last" if bar.at_least and "channels_last" in subject else ", contiguous" if bar.at_least else ""
    )
    layer = ""
    if measure.endswith("/ local"):
        words = {"ConvT": "transposed convolution", "Group": "GroupNorm", "Inter": "interpolation"}
        layer = words.get(subject[:5], "convolution") + ", "
    size = f"{subject}, " if subject.startswith("halo") else ""
    return f"{layer}{size}{measure}{layout}"
