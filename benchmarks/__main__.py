"""Runs the benchmark's parts, each in processes of its own, and reports. `make bench` calls it."""

from __future__ import annotations

import argparse
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from benchmarks import options, runs
from benchmarks.report import REPOSITORY, report


def _arguments(given: argparse.Namespace) -> list[str]:
    result = [f"--rows={given.rows}", f"--iterations={given.iterations}", f"--out={given.out}"]
    return result + [f"--{name}" for name in ("smoke", "full", "resume") if getattr(given, name)]


def _launcher(ranks: int) -> list[str]:
    """The mpiexec that stands beside Python, else the one on the path."""
    beside = pathlib.Path(sys.executable).with_name("mpiexec")
    return [str(beside) if beside.exists() else "mpiexec", "-n", str(ranks)]


def _command(part: str, given: argparse.Namespace, shared: pathlib.Path) -> list[str]:
    if part in ("halo_exchange", "training_step"):
        program = given.build / "bin" / f"{part}_benchmark"
        if not program.exists():
            sys.exit(f"{program} is missing: run `make bench-programs`, or say with --build where it lies")
        iterations = given.iterations
        ranks = 2 if part == "halo_exchange" else given.ranks
        return [*_launcher(ranks), str(program), str(given.out / f"{part}.csv"), str(iterations), str(int(given.smoke))]
    python = [sys.executable, "-m", f"benchmarks.{part}", *_arguments(given)]
    if part == "traffic":
        return python
    from benchmarks.processes import prepare

    prepare(shared, given.ranks)
    return [*_launcher(given.ranks), *python, f"--shared={shared}"]


def run(part: str, given: argparse.Namespace) -> None:
    """Raises CalledProcessError where the part fails."""
    memory = pathlib.Path("/dev/shm")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="graticule-bench-", dir=memory if memory.is_dir() else None))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GRATICULE_TIMEOUT": "900", "KINETO_LOG_LEVEL": "99"}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    try:
        subprocess.run(_command(part, given, folder / "run"), env=environment, check=True)
    finally:
        shutil.rmtree(folder)


def main() -> None:
    given = options.parse()
    if not importlib.util.find_spec("graticule"):
        sys.exit("python -m benchmarks: expected the built Python package graticule: run `make bench-programs` first")
    given.out = given.out.resolve()
    try:
        runs.begin(given)
    except ValueError as error:
        sys.exit(str(error))
    parts = given.parts.split(",") if given.parts else options.PARTS
    for part in parts:
        # Rows are taken up one by one; other parts write their table at their end.
        if given.resume and part != "layer_times" and (given.out / f"{part}.csv").exists():
            continue
        begun = time.monotonic()
        run(part, given)
        print(f"{time.monotonic() - begun:7.1f} s  {part} done", file=sys.stderr, flush=True)
    if given.smoke:
        print("smoke mode: the numbers mean nothing\n")
    publish = given.publish and given.ranks == 2 and not (given.rows or given.parts or given.smoke or given.full)
    print(report(given.out, publish, judge=not given.smoke, ranks=given.ranks))


if __name__ == "__main__":
    main()
