"""Errors: those that every rank has, since it goes by what all of them know, and those that the others must be told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from graticule.domain import Domain


def tell_others(domain: Domain, error: Exception) -> None:
    """Has the other ranks raise at their next message; the domain is dead after that."""
    torch.ops.graticule.poison(domain.group_name, f"rank {domain.rank} of {domain.size}: {error}")


@contextlib.contextmanager
def errors_of_every_rank() -> Iterator[None]:
    """Around work on whole tensors, or on their shapes: a rank that has its error need not tell the others."""
    try:
        yield
    except Exception as error:
        error._is_of_every_rank = True  # type: ignore[attr-defined]
        raise


def is_of_every_rank(error: Exception) -> bool:
    """Whether it was raised within errors_of_every_rank()."""
    return getattr(error, "_is_of_every_rank", False)
