"""CSV files."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any


def write(path: pathlib.Path, records: Sequence[Mapping[str, Any]]) -> None:
    """One line a record, under the names of the first one's entries."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]) if records else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


def read(path: pathlib.Path) -> list[dict[str, str]]:
    """Nothing where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
