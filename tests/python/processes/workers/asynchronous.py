"""Calls of a cut layer over NCCL come back before the device has done them: exchanges wait on streams, not here."""

import time

import torch
import torch.distributed as dist
from torch import nn

from graticule import Domain
from graticule.domain_parallel.layers import DomainParallelConv2d
from support.transport import share_devices


def main():
    share_devices()
    domain = Domain.from_env()
    layer = DomainParallelConv2d(nn.Conv2d(256, 256, 3, padding=1).cuda(), domain=domain)
    x = torch.randn(4, 256, 512, 512, device="cuda", requires_grad=True)

    def step():
        return layer(x).square().sum().backward()

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    dist.barrier()
    start = time.perf_counter()
    for _ in range(5):
        step()
    called = time.perf_counter() - start
    torch.cuda.synchronize()
    done = time.perf_counter() - start
    if domain.rank == 0:
        print(f"5 steps called in {called * 1e3:.1f} ms, done after {done * 1e3:.1f} ms", flush=True)
    assert called < 0.5 * done
    if domain.rank == 0:
        print("asynchronous", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
