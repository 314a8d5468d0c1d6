"""A cut convolution against its local work alone, forward and backward, over MPI.

Run with `mpiexec -n 2 python benchmarks/convolution.py`. The contenders take turns in one run; what is printed is the
median of the paired ratios to the local layer, which is called with no communication at all, and their quartiles. The
null row is the local layer against itself: the noise.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

from graticule import Domain
from graticule.domain_parallel import DomainParallelConv2d, HaloExchange

SHAPES = {  # channels in, channels out, kernel, stride, padding, rows, columns of the whole grid
    "64->64 k3 360x720": (64, 64, 3, 1, 1, 360, 720),
    "64->64 k3 721x720": (64, 64, 3, 1, 1, 721, 720),
    "74->64 k4 s2 p1 480x720": (74, 64, 4, 2, 1, 480, 720),
    "74->16 k32 s2 p15 240x360": (74, 16, 32, 2, 15, 240, 360),
}


def concatenated(conv: nn.Conv2d, halo: HaloExchange, x: torch.Tensor) -> torch.Tensor:
    """What takes the place of the layer elsewhere: halo rows put around the shard, then a convolution of the copy."""
    return F.conv2d(halo(x), conv.weight, conv.bias, conv.stride, (0, conv.padding[1]))


def once(call, x: torch.Tensor, conv: nn.Conv2d, domain: Domain) -> float:
    x.grad = None
    conv.zero_grad()
    torch.ops.graticule.check_equal("benchmark", "turn", domain.group_name)  # the ranks begin together
    begun = time.perf_counter()
    call(x).sum().backward()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--iterations", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    domain = Domain.mpi()
    for name, (channels, outputs, kernel, stride, padding, rows, columns) in SHAPES.items():
        for layout in (torch.contiguous_format, torch.channels_last):
            torch.manual_seed(0)
            conv = nn.Conv2d(channels, outputs, kernel, stride, padding)
            offsets = torch.ops.graticule.balanced_offsets(rows, domain.size)
            local = offsets[domain.rank + 1] - offsets[domain.rank]
            x = torch.randn(1, channels, local, columns).contiguous(memory_format=layout).requires_grad_()
            cut = DomainParallelConv2d(conv, domain=domain, rows=rows)
            halo = HaloExchange(padding, domain=domain, rows=rows)
            contenders = {
                "local": conv,
                "null": conv,
                "graticule": cut,
                "concat": lambda t, conv=conv, halo=halo: concatenated(conv, halo, t),
            }
            times: dict[str, list[float]] = {key: [] for key in contenders}
            order = list(contenders)
            for i in range(arguments.iterations + 3):
                for key in order[i % len(order) :] + order[: i % len(order)]:
                    seconds = once(contenders[key], x, conv, domain)
                    if i >= 3:
                        times[key].append(seconds)
            if domain.rank != 0:
                continue
            base = times.pop("local")
            figures = [f"local {statistics.median(base) * 1e3:7.1f} ms"]
            for key, values in times.items():
                ratios = sorted(v / b for v, b in zip(values, base, strict=True))
                low, middle, high = statistics.quantiles(ratios, n=4)
                figures.append(f"{key} {middle:.3f} ({low:.3f} to {high:.3f})")
            layout_name = "channels_last" if layout is torch.channels_last else "contiguous"
            print(f"{name:28} {layout_name:14} " + ", ".join(figures), flush=True)


if __name__ == "__main__":
    main()
