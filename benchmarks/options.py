"""What the benchmark can be told."""

from __future__ import annotations

import argparse
import pathlib


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", default="", help="only rows whose names hold this text")
    parser.add_argument("--parts", default="", help="only these parts, by name, with commas between")
    parser.add_argument("--iterations", type=int, default=0, help="turns of each contender (15; 2 in smoke mode)")
    parser.add_argument("--smoke", action="store_true", help="every row and contender on tiny tensors: no timings")
    parser.add_argument("--full", action="store_true", help="no row made smaller: hours")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/bench"))
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build/dev"), help="where the programs lie")
    parser.add_argument(
        "--publish", action="store_true", help="put the tables and pictures of all rows into README.md and docs"
    )
    parser.add_argument("--shared", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.iterations == 0:
        given.iterations = 2 if given.smoke else 15
    return given
