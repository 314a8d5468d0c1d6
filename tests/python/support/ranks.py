"""Ranks as threads of this process."""

import faulthandler
import itertools
import os
import sys
import threading
import time
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


class DeadlockError(Exception):
    """Ranks that were still at it when the watchdog came."""


def run_ranks(size: int, body: Callable[[Domain], Any]) -> list[Any]:
    """Runs body(domain) in `size` threads and returns what each returned, in rank order.

    Where the environment's GRATICULE_TEST_TRANSPORT names a transport, this process is one of several that all run the
    tests: then body runs in each if they are `size`, and not at all if they are not.

    Raises RanksFailedError with every rank's exception. A deadlock is a DeadlockError that names the test, with every
    thread's stack on stderr; where it holds Python's lock too, the process ends.
    """
    if "GRATICULE_TEST_TRANSPORT" in os.environ:
        from support.transport import run_processes

        return run_processes(os.environ["GRATICULE_TEST_TRANSPORT"], size, body)
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

    faulthandler.dump_traceback_later(WATCHDOG_SECONDS + 30, exit=True)
    try:
        threads = [threading.Thread(target=rank_main, args=(rank,), daemon=True) for rank in range(size)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + WATCHDOG_SECONDS
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        stuck = [rank for rank, thread in enumerate(threads) if thread.is_alive()]
        if stuck:
            faulthandler.dump_traceback(sys.__stderr__)
            test = os.environ.get("PYTEST_CURRENT_TEST", "no test")
            raise DeadlockError(f"{test}: ranks {stuck} of {size} hang after {WATCHDOG_SECONDS} s; failed: {errors}")
    finally:
        faulthandler.cancel_dump_traceback_later()
    if errors:
        raise RanksFailedError(errors)
    return results


def failures(size: int, body: Callable[[Domain], Any]) -> dict[int, Exception]:
    """What body raises on each rank that raises."""
    try:
        run_ranks(size, body)
    except RanksFailedError as failure:
        return failure.errors
    return {}


def balanced(rows: int, ranks: int) -> list[int]:
    return [rank * rows // ranks for rank in range(ranks + 1)]


def own_rows(x: torch.Tensor, dim: int, domain: Domain, offsets: list[int] | None = None) -> torch.Tensor:
    """The rank's rows of a whole tensor, cut in balance unless offsets are given."""
    cut = balanced(x.shape[dim], domain.size) if offsets is None else offsets
    return x.narrow(dim, cut[domain.rank], cut[domain.rank + 1] - cut[domain.rank])


def relative(value: torch.Tensor, reference: torch.Tensor) -> float:
    """Maximum error over maximum of the reference."""
    if reference.numel() == 0:
        return 0.0
    error = (value.double() - reference.double()).abs().max().item()
    scale = reference.double().abs().max().item()
    return error if scale == 0 else error / scale
