"""A cut convolution whose neighbour is late, between two processes over MPI.

Prints, forward and backward, the milliseconds of the local convolution, and how many more rank 0's call of the cut one
takes where rank 1 begins DELAY later. With the argument "waits" MPI may be called by one thread alone, so that messages
move in waits only.
"""

import ctypes
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

import graticule
from graticule.domain_parallel import DomainParallelConv2d
from support.transport import collect, domains, end

DELAY = 0.2
LOCAL_SECONDS = 0.3
CHANNELS, COLUMNS = 64, 4608  # a halo row of 1.2 MB, which no MPI sends without its receiver's help
TURNS = 5
ATTEMPTS = 3  # other programs come and go


def let_one_thread_call() -> None:
    # A handle finds what its library depends on too.
    library = ctypes.CDLL(str(pathlib.Path(graticule.__file__).parent / "lib" / "libgraticule_mpi.so"))
    funneled, level = 1, ctypes.c_int()
    library.MPI_Init_thread(None, None, funneled, ctypes.byref(level))
    assert level.value == funneled


def main() -> None:
    waits = sys.argv[1:] == ["waits"]
    if waits:
        let_one_thread_call()
    domain, reports = domains("mpi", 2)
    conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)

    def seconds_of(call: Callable[[], object], late: bool) -> float:
        """This rank's; all begin together, but rank 1 where it is late."""
        collect(reports, None)
        if late and domain.rank == 1:
            time.sleep(DELAY)
        begun = time.perf_counter()
        call()
        return time.perf_counter() - begun

    def turn(module: nn.Module, x: torch.Tensor, backward: bool, late: bool) -> float:
        x = x.detach().requires_grad_(backward)
        with torch.set_grad_enabled(backward):
            if not backward:
                return seconds_of(lambda: module(x), late)
            y = module(x)
            return seconds_of(lambda: y.backward(x.detach()), late)

    def whole_rows() -> int:
        few = torch.randn(1, CHANNELS, 16, COLUMNS)
        own = min(turn(conv, few, False, False) for _ in range(3))
        return 2 * min(max(round(16 * LOCAL_SECONDS / max(collect(reports, own))), 4), 256)

    rows = whole_rows()
    layer = DomainParallelConv2d(conv, domain=domain, rows=rows)
    x = torch.randn(1, CHANNELS, rows // 2, COLUMNS)
    for backward in (False, True):
        found = []
        for _ in range(1 if waits else ATTEMPTS):
            pairs = [(turn(conv, x, backward, False), turn(layer, x, backward, True)) for _ in range(1 + TURNS)][1:]
            beyond = statistics.median(cut - local for local, cut in pairs)
            found.append((beyond, statistics.median(local for local, _ in pairs)))
            if collect(reports, beyond)[0] < DELAY / 4:
                break
        if domain.rank == 0:
            beyond, local = min(found)
            print(f"{'backward' if backward else 'forward'} {local * 1e3:.0f} {beyond * 1e3:.0f}", flush=True)
    end("mpi")


if __name__ == "__main__":
    main()
