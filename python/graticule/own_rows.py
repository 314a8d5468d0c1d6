"""What takes this rank's rows as a plain tensor takes no DomainTensor, which has the whole grid's shape."""

from __future__ import annotations

from typing import Any


def expect_own_rows(x: Any, name: str) -> None:
    """TypeError for a DomainTensor, whose rows would be taken for this rank's."""
    if getattr(type(x), "_has_whole_shape", False):
        raise TypeError(
            f"{name}: expected this rank's rows in a plain tensor, got a DomainTensor: call the uncut module, or "
            f"a model that graticule.parallelize has changed (rank {x._cut.domain.rank} of {x._cut.domain.size})"
        )
