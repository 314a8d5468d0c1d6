"""Where the ranks of one machine meet between turns, through memory that they share.

No contender's transport takes part in it. Waiting for another rank's turn to end sleeps, so that it takes no processor
from that turn; the last step to a common start polls, so that the ranks begin together to some microseconds.
"""

from __future__ import annotations

import pathlib
import time

import numpy as np

PATIENCE_SECONDS = 900
_LINE = 8  # numbers a cache line


class Meeting:
    """One rank's view. `path` names a file in shared memory that `create` made."""

    def __init__(self, path: pathlib.Path, rank: int, size: int) -> None:
        self._rank = rank
        shared = np.memmap(path, np.float64, "r+", shape=(2, size, _LINE))
        self._arrivals, self._values = shared[0, :, 0], shared[1, :, 0]
        self._count = 0

    @staticmethod
    def create(path: pathlib.Path, size: int) -> None:
        np.zeros((2, size, _LINE)).tofile(path)

    def _arrive(self, longest_pause: float) -> None:
        self._count += 1
        self._arrivals[self._rank] = self._count
        begun = time.monotonic()
        while self._arrivals.min() < self._count:
            waited = time.monotonic() - begun
            if longest_pause:
                time.sleep(min(longest_pause, waited))
            if waited > PATIENCE_SECONDS:
                raise TimeoutError(f"rank {self._rank} waited {PATIENCE_SECONDS} s for the others")

    def gather(self) -> None:
        """Returns when all ranks have come."""
        self._arrive(2e-3)

    def start(self) -> None:
        """Returns on all ranks at once."""
        self._arrive(2e-3)
        self._arrive(0)

    def largest(self, value: float) -> float:
        """The largest of the ranks' values, on every rank."""
        self._values[self._rank] = value
        self.gather()
        result = float(self._values.max())
        self.gather()
        return result
