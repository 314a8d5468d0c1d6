"""What the command takes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from graticule.command import cut_runs, plans
from graticule.command.building import builder, data_type


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m graticule", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, run: object, text: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=text, description=text)
        found.set_defaults(run=run)
        found.add_argument("model", help="package.module:function that builds the model, or a class of one")
        found.add_argument(
            "--shape",
            type=_numbers,
            action="append",
            required=True,
            dest="shapes",
            help="sizes of the whole input, 1,70,721,1440; once more for each further input of the model: one with as "
            "many dimensions and rows as the first is cut too",
        )
        found.add_argument("--dim", type=int, default=-2, help="the dimension to cut (%(default)s)")
        found.add_argument("--seed", type=int, default=0, help="of weights, input and random numbers (%(default)s)")
        found.add_argument("--dtype", default="float64", help="of the model and its input (%(default)s)")
        found.add_argument("--eval", action="store_true", help="in evaluation mode, not in training mode")
        return found

    verify = command("verify", cut_runs.verify, "compares the cut model with the uncut one; exits 1 where they differ")
    report = command("report", cut_runs.report, "lists what a cut forward and backward pass moves between ranks")
    for one in (verify, report):
        one.add_argument("--ranks", type=int, default=2, help="processes to start, over Gloo (%(default)s)")
        one.add_argument(
            "--perturb", type=float, default=0.0, help="adds such noise to all parameters: zeros hide faults"
        )
    verify.add_argument("--bound", type=float, help="largest relative error that counts as exact (by dtype)")
    report.add_argument("--all", action="store_true", help="every message on its own, not summed by op and module")
    report.add_argument("--strict", action="store_true", help="exits 1 where a whole tensor is gathered")
    plan = command("plan", plans.plan, "rows, bytes and memory of each rank, without running the model")
    plan.add_argument("--ranks", type=_numbers, default=[2, 4, 8], help="numbers of ranks: 2,4,8")
    return parser


def _check(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Ends with one line where an argument is wrong, before any rank is started."""
    builder(given.model)
    data_type(given)
    dims = len(given.shapes[0])
    if not -dims <= given.dim < dims:
        parser.error(f"--dim: expected one of {-dims} to {dims - 1} for a shape of {dims} sizes, got {given.dim}")
    for ranks in given.ranks if isinstance(given.ranks, list) else [given.ranks]:
        if ranks < 1:
            parser.error(f"--ranks: expected at least one, got {ranks}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; its exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    _check(parser, given)
    return given.run(given)
