"""The command that plans: see graticule.planning."""

from __future__ import annotations

from typing import Any

from graticule import planning
from graticule.command.building import builder, data_type


def plan(options: Any) -> int:
    """Prints a table for each number of ranks."""
    for ranks in options.ranks:
        try:
            found = planning.plan(
                builder(options.model), options.shapes, ranks, options.dim, data_type(options), not options.eval
            )
        except RuntimeError as error:
            if "meta tensors" not in str(error):
                raise
            raise SystemExit(
                f"graticule: plan: the model decides by values, which a plan has none of: {error}"
            ) from error
        print(f"{found}\n")
    return 0
