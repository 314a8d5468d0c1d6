"""Ranks as threads of this process."""

import faulthandler
import itertools
import threading
from collections.abc import Callable
from typing import Any

import torch

from graticule import Domain

_worlds = itertools.count()
WATCHDOG_SECONDS = 120


class RanksFailedError(Exception):
    """What each failed rank raised."""

    def __init__(self, errors: dict[int, Exception]) -> None:
        self.errors = errors
        super().__init__("; ".join(f"rank {rank}: {type(e).__name__}: {e}" for rank, e in sorted(errors.items())))


def run_ranks(size: int, body: Callable[[Domain], Any]) -> list[Any]:
    """Runs body(domain) in `size` threads and returns what each returned, in rank order.

    Raises RanksFailedError with every rank's exception. A deadlock ends the process, with every thread's stack shown.
    """
    world = f"test{next(_worlds)}"
    results: list[Any] = [None] * size
    errors: dict[int, Exception] = {}

    def rank_main(rank: int) -> None:
        domain = Domain.threads(world, rank, size)
        try:
            results[rank] = body(domain)
        except Exception as error:  # noqa: BLE001
            errors[rank] = error
        finally:
            torch.ops.graticule.destroy_thread_group(domain.group_name)

    faulthandler.dump_traceback_later(WATCHDOG_SECONDS, exit=True)
    try:
        threads = [threading.Thread(target=rank_main, args=(rank,)) for rank in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        faulthandler.cancel_dump_traceback_later()
    if errors:
        raise RanksFailedError(errors)
    return results


def balanced(rows: int, ranks: int) -> list[int]:
    return [rank * rows // ranks for rank in range(ranks + 1)]


def relative(value: torch.Tensor, reference: torch.Tensor) -> float:
    """Maximum error over maximum of the reference."""
    if reference.numel() == 0:
        return 0.0
    error = (value.double() - reference.double()).abs().max().item()
    scale = reference.double().abs().max().item()
    return error if scale == 0 else error / scale
