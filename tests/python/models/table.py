"""Makes the table of docs/models.md: python -m models.table, in tests/python."""

import dataclasses
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

import graticule
from graticule.command.ranks import on_ranks
from graticule.planning.fake_rank import saved_bytes
from graticule.verification.passes import run_pass, weighted_sum
from models.builders import MODELS, Model, built

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "models.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
TURNS = 5


@dataclasses.dataclass
class Row:
    model: str
    ranks: int
    rows: int
    error: float
    gathers: int
    bytes: int
    kept: int
    kept_serial: int
    milliseconds: float
    milliseconds_serial: float


def _milliseconds(model: torch.nn.Module, make: Callable[[], torch.Tensor]) -> float:
    """The median of a few passes after the first, all ranks together."""
    spent = []
    for _ in range(TURNS + 1):
        x = make()
        dist.barrier()
        begun = time.perf_counter()
        run_pass(model, (x,), weighted_sum)
        spent.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(spent[1:])


def _kept(model: torch.nn.Module, x: torch.Tensor) -> int:
    with saved_bytes(model) as kept:
        run_pass(model, (x,), weighted_sum)
    return sum(kept)


def _row(model: Model, domain: graticule.Domain) -> Row:
    net = built(model)
    x = torch.randn(*model.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = graticule.verify(net, x, domain, dim=model.dim)
    cut = lambda: graticule.shard(x, domain, model.dim)  # noqa: E731
    kept, kept_serial = _kept(net, cut()), _kept(net, x.clone())
    most = torch.tensor([kept, found.report.bytes, _milliseconds(net, cut), _milliseconds(net, x.clone)])
    dist.all_reduce(most, dist.ReduceOp.MAX)
    largest, sent, spent, serial = most.tolist()
    return Row(
        model.name,
        domain.size,
        model.shape[model.dim],
        found.error,
        len(found.report.gathers),
        int(sent),
        int(largest),
        kept_serial,
        spent,
        serial,
    )


def measured(domain: graticule.Domain, options: Any) -> list[Row]:
    torch.set_num_threads(1)
    return [_row(model, domain) for model in MODELS.values()]


def table(rows: list[Row]) -> str:
    lines = [
        "| model | ranks | rows | worst error | gathers | sent a step | kept for backward | time |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        share = f"{row.kept / 1e6:.2f} MB of {row.kept_serial / 1e6:.2f} ({row.kept / row.kept_serial:.0%})"
        spent = f"{row.milliseconds:.0f} ms; {row.milliseconds_serial:.0f} ms uncut"
        lines.append(
            f"| {row.model} | {row.ranks} | {row.rows} | {row.error:.0e} | {row.gathers} | {row.bytes / 1e3:.0f} KB "
            f"| {share} | {spent} |"
        )
    return "\n".join(lines)


def main() -> None:
    rows = [row for size in (2, 3) for row in on_ranks(size, measured, None)]
    rows.sort(key=lambda row: list(MODELS).index(row.model))
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}")
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
