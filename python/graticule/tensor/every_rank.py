"""Errors that every rank has, since it goes by what all of them know."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


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
