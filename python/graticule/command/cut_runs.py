"""Commands that run the model cut: verify and report."""

from __future__ import annotations

import collections
from typing import Any

from graticule.command.building import model_and_inputs, shown
from graticule.command.ranks import on_ranks
from graticule.domain import Domain
from graticule.tensor import report as reports
from graticule.tensor.report import Report
from graticule.verification import check
from graticule.verification.passes import run_pass, weighted_sum


def _verified(domain: Domain, options: Any) -> tuple[str, bool]:
    model, inputs = model_and_inputs(options)
    found = check.verify(model, inputs, domain, dim=options.dim, bound=options.bound, seed=options.seed)
    return str(found), found.exact


def verify(options: Any) -> int:
    """Prints a table; 1 where the cut model differs."""
    text, exact = on_ranks(options.ranks, _verified, options)
    print(f"{options.model} of {shown(options.shapes)} on {options.ranks} ranks\n{text}")
    return 0 if exact else 1


def _reported(domain: Domain, options: Any) -> tuple[str, bool]:
    model, inputs = model_and_inputs(options)
    with reports.report(model=model) as found:
        run_pass(model, check.cut_arguments(inputs, domain, options.dim), weighted_sum)
    return str(found) if options.all else summary(found), bool(found.gathers)


def summary(found: Report) -> str:
    """The report's messages, summed by op, kind and module, the most bytes first; and the lines that gather."""
    totals: dict[tuple[str, str, str], list[float]] = collections.defaultdict(lambda: [0, 0, 0.0])
    for call in found.calls:
        total = totals[call.moved, call.op, call.module]
        total[0] += 1
        total[1] += call.bytes
        total[2] += call.milliseconds
    lines = [f"{'moved':12}{'times':>7}{'bytes':>14}{'ms':>10}  {'op':44}  module"]
    for (moved, op, module), (times, size, spent) in sorted(totals.items(), key=lambda item: -item[1][1]):
        lines.append(f"{moved:12}{times:7}{size:14}{spent:10.2f}  {op:44}  {module or 'outside of the model'}")
    times, size, spent = (sum(total[i] for total in totals.values()) for i in range(3))
    lines.append(f"{'total':12}{times:7}{size:14}{spent:10.2f}")
    lines += dict.fromkeys(f"GATHER of {c.op} in {c.module or 'no module'}, {c.line}" for c in found.gathers)
    return "\n".join(lines)


def report(options: Any) -> int:
    """Prints what rank 0 sent; with --strict 1 where anything was gathered."""
    text, gathers = on_ranks(options.ranks, _reported, options)
    print(f"{options.model} of {shown(options.shapes)}: sent by rank 0 of {options.ranks}\n{text}")
    return 1 if gathers and options.strict else 0
