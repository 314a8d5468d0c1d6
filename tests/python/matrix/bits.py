"""Cut convolutions against serial ones, bit for bit: float32 on one thread.

As a program it prints the cases that differ, one a line, and its counts: with ONEDNN_MAX_CPU_ISA for that set of
instructions, without it for each, as a table of known_exceptions/.
"""

import os
import pathlib
import subprocess
import sys
from typing import Any

import torch
from torch import Tensor

from matrix.bit_cases import BitCase, Serial, cases, laid_out, serial
from matrix.layers import CUT
from matrix.torch_alone import PADDING, ROWS, depends_on_padding, explained
from support.ranks import balanced, run_ranks

INSTRUCTIONS = ("AVX512_CORE", "AVX2")
PATHS = ("in_place", "whole_windows")
UNEXPLAINED = "PyTorch alone does not give these bits"

HEAD = """# Processor: {}
# Cut float32 convolutions on one thread with an output or input gradient that differs in its last bits from the serial
# layer's.
# case | what | why. Each row that differs has the bits of PyTorch alone on the same rows of the uncut tensors. Either
#   kernel depends on padding: zero rows in the uncut tensor give other bits than as much padding; or
#   kernel depends on the number of rows: it blocks its sums by the size of the tensor, and a shard has fewer rows.
# Written in this folder by: PYTHONPATH=../../../../python:../.. python ../bits.py > {}.txt"""


def processor() -> str:
    """Vendor, family, model, and the caches' sizes with the processors that share each.

    oneDNN may choose blocks by the share that a core has of L2 and L3, and virtual machines of one model see different
    ones. A table without caches was written where they were not noted, and is compared on every machine of its model.
    """
    facts: dict[str, str] = {}
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    model = "_".join(facts.get(key, "?") for key in ("vendor_id", "cpu family", "model"))
    caches = {}
    for cache in pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        level, size, shared = ((cache / name).read_text().strip() for name in ("level", "size", "shared_cpu_map"))
        caches[level] = f"_L{level}-{size}-{int(shared.replace(',', ''), 16).bit_count()}"
    return model + "".join(caches.get(level, f"_L{level}-none") for level in ("2", "3"))


def cut_and_uncut(case: BitCase, whole: Serial) -> dict[str, tuple[Tensor, Tensor]]:
    dim = whole.dim

    def body(domain: Any) -> tuple[Tensor, Tensor]:
        cuts = balanced(case.rows, domain.size), balanced(whole.y.shape[dim], domain.size)

        def own(t: Tensor, offsets: list[int]) -> Tensor:
            first, last = offsets[domain.rank], offsets[domain.rank + 1]
            return laid_out(t.detach().narrow(dim, first, last - first), case.channels_last)

        rows = own(whole.x, cuts[0]).requires_grad_()
        output = CUT[type(whole.module)](whole.module, dim - whole.x.dim(), domain=domain)(rows)
        (gradient,) = torch.autograd.grad(output, rows, own(whole.g, cuts[1]))
        return output.detach(), gradient

    outputs, gradients = zip(*run_ranks(case.ranks, body), strict=True)
    assert whole.x.grad is not None
    return {
        "output": (torch.cat(outputs, dim), whole.y.detach()),
        "input gradient": (torch.cat(gradients, dim), whole.x.grad),
    }


def differing(case: BitCase, whole: Serial) -> dict[str, str]:
    """Which of output and input gradient differ from the serial layer's in some bit, and why."""
    found = {}
    for what, (cut, uncut) in cut_and_uncut(case, whole).items():
        if torch.equal(cut, uncut):
            continue
        if not explained(case, whole, what, cut, uncut):
            found[what] = UNEXPLAINED
        else:
            found[what] = PADDING if depends_on_padding(case, whole) else ROWS
    return found


def run() -> None:
    torch.set_num_threads(1)
    everything = list(cases())
    identical = dict.fromkeys(PATHS, 0)
    for case in everything:
        whole = serial(case)
        for what, reason in differing(case, whole).items():
            print(f"{case.name} | {what} | {reason}", flush=True)
        for path in PATHS:
            torch.ops.graticule.force_convolution_path(path)
            found = differing(case, whole)
            torch.ops.graticule.force_convolution_path("automatic")
            identical[path] += not found
            for what, reason in found.items():
                # The table is of the paths as they come: of the others only what must not be.
                if reason == UNEXPLAINED:
                    print(f"{case.name} | {what} | {path}: {reason}", flush=True)
    for path in PATHS:
        print(f"{path}: {identical[path]} identical")
    print(f"cases: {len(everything)}")


def main() -> None:
    if "ONEDNN_MAX_CPU_ISA" in os.environ:
        return run()
    print(HEAD.format(processor(), processor()))
    for instructions in INSTRUCTIONS:
        print(f"[{instructions}]", flush=True)
        environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, __file__], env=environment, check=True)


if __name__ == "__main__":
    main()
