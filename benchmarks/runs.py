"""What kind of run a folder's tables are of: tables of different kinds are not mixed, and one kind is compared."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib

from benchmarks import records
from benchmarks.stored import FILES

FILE = "run.csv"
SMOKE, FULL, STANDARD = "smoke", "full", "standard"
_TABLES = (*FILES, "turns", "bars", "paths", "training_step")
_WHAT = {
    SMOKE: "a smoke run, whose numbers mean nothing",
    FULL: "a --full run, whose rows have other sizes than the stored ones",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """`iterations`: the fewest of any of the folder's tables."""

    kind: str
    ranks: int
    iterations: int

    def __str__(self) -> str:
        return f"a {self.kind} run on {self.ranks} ranks"


def read(folder: pathlib.Path) -> Run | None:
    """Nothing where the folder does not tell."""
    found = records.read(folder / FILE)
    return Run(found[0]["kind"], int(found[0]["ranks"]), int(found[0]["iterations"])) if found else None


def begin(given: argparse.Namespace) -> None:
    """Records the run in its folder. ValueError where one of some parts or rows would be mixed with tables of another.

    A whole run takes the place of those, which it would write over one by one.
    """
    kind = SMOKE if given.smoke else FULL if given.full else STANDARD
    now, earlier = Run(kind, given.ranks, given.iterations), read(given.out)
    tables = [path for path in (given.out / f"{name}.csv" for name in _TABLES) if path.exists()]
    alike = earlier is not None and (earlier.kind, earlier.ranks) == (now.kind, now.ranks)
    partial = bool(given.parts or given.rows or given.resume)
    if tables and partial and not alike:
        raise ValueError(
            f"{given.out} holds tables of {earlier or 'a run of unknown kind'}, expected {now} as this one is: "
            "choose another --out, or remove the folder"
        )
    if tables and partial and earlier:
        now = dataclasses.replace(now, iterations=min(now.iterations, earlier.iterations))
    for path in [] if alike else tables:
        path.unlink()
    records.write(given.out / FILE, [dataclasses.asdict(now)])


def expect_standard(folder: pathlib.Path) -> None:
    """ValueError for the folder of a run whose numbers are not those of the documents' and the reference's tables."""
    run = read(folder)
    if run is None:
        raise ValueError(f"{folder} has no {FILE}, which tells what kind of run it was: run `make bench` first")
    if run.kind != STANDARD:
        raise ValueError(f"{folder} holds {_WHAT.get(run.kind, run)}: run `make bench` first")
