"""State of a thread that the threads which autograd starts for its backward passes have too: one for each GPU."""

from __future__ import annotations

from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Carried(Generic[T]):
    """A value of each thread's own; in a backward pass that of the thread which began it."""

    def __init__(self, name: str, otherwise: T) -> None:
        self._key = f"graticule.{name}"
        self._otherwise = otherwise

    def get(self) -> T:
        """What this thread, or the one that it works for, has set last."""
        return torch._C._get_obj_in_tls(self._key) if torch._C._is_key_in_tls(self._key) else self._otherwise

    def set(self, value: T) -> None:
        """For this thread, and for backward passes that it begins from now on."""
        torch._C._stash_obj_in_tls(self._key, value)
