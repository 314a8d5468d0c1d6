"""What the benchmark can be told."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence

from benchmarks.shapes import SHAPES, chosen

PARTS = ("layer_times", "tiny", "dispatch", "traffic", "halo_exchange", "training_step")
# Of what layer_times tells, what takes no timing.
UNTIMED = ("paths",)
LEAST_PUBLISHED = 15


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Those of the command line unless given."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="Rows:\n  " + "\n  ".join(shape.name for shape in SHAPES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", default="", help="only rows whose names hold this text")
    names = ", ".join((*PARTS, *UNTIMED))
    parser.add_argument("--parts", default="", help=f"only these parts, with commas between: {names}")
    parser.add_argument(
        "--iterations",
        type=int,
        default=0,
        help="turns of each contender, at least: short ones take more (15; 2 in smoke mode)",
    )
    parser.add_argument("--smoke", action="store_true", help="every row and contender on tiny tensors: no timings")
    parser.add_argument("--full", action="store_true", help="no row made smaller: hours")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/bench"))
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build/dev"), help="where the programs lie")
    parser.add_argument(
        "--publish", action="store_true", help="put the tables and pictures of all rows into README.md and docs"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with a run that was ended: leave what --out has of rows and parts"
    )
    parser.add_argument("--shared", default="", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.iterations < 0:
        parser.error(f"--iterations: expected a number over 0, got {given.iterations}")
    if given.iterations == 0:
        given.iterations = 2 if given.smoke else LEAST_PUBLISHED
    if given.publish and given.iterations < LEAST_PUBLISHED:
        parser.error(f"--publish: expected at least {LEAST_PUBLISHED} iterations, got {given.iterations}")
    unknown = [part for part in given.parts.split(",") if given.parts and part not in (*PARTS, *UNTIMED)]
    if unknown:
        parser.error(f"--parts: expected some of {names}, got {', '.join(unknown)}")
    try:
        chosen(given.rows, given.smoke, given.full)
    except ValueError as error:
        parser.error(f"--rows: {error}")
    return given
