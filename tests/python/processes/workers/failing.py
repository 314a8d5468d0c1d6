"""One rank errs in ways that are given as arguments, each in a domain of its own; every rank must get an error in time.

Prints each rank's, and how long it took.
"""

import os
import sys
import time

import torch
from torch import nn

import graticule
from graticule import Domain
from graticule.domain_parallel import DomainParallelConv2d
from support.transport import collect, domains


def of_a_layer(domain: Domain, how: str | None) -> None:
    layer = DomainParallelConv2d(nn.Conv2d(2, 2, 3, padding=1), domain=domain, rows=8 * domain.size)
    x = torch.randn(1, 2, 8, 4)
    if how == "rows":
        x = torch.randn(1, 2, 9, 4)
    if how == "width":
        x = torch.randn(1, 2, 8, 5)
    if how == "dtype":
        x, layer = x.double(), layer.double()
    # The second call reaches the ranks that have nothing to do with rank 1 in the first.
    layer(x)
    layer(x)


def of_a_whole_model(domain: Domain, how: str | None) -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Conv2d(2, 2, 3))
    if how == "whole width":
        whole = torch.randn(1, 2, 8 * domain.size, 5)
    else:
        whole = torch.randn(1, 2, 8 * domain.size, 4)
    if how == "whole seed":
        torch.manual_seed(7)
    if how == "whole raises in backward":
        model[1].register_full_backward_hook(lambda *_: 1 / 0)
    loss = model(graticule.shard(whole, domain, dim=2)).square().mean()
    if how == "whole op":
        loss = model(graticule.shard(whole, domain, dim=2)).square().sum(2).mean()
    loss.backward()


def fail(domain: Domain, how: str) -> None:
    torch.manual_seed(0)
    call = of_a_whole_model if how.startswith("whole") else of_a_layer
    call(domain, None)
    begun = time.monotonic()
    try:
        if domain.rank == 1 and how == "raises":
            raise KeyError("the program's own")
        call(domain, how if domain.rank == 1 else None)
        call(domain, None)
    except Exception as error:  # noqa: BLE001
        seconds = time.monotonic() - begun
        # In one piece: the ranks share the pipe.
        message = str(error).splitlines()[0]
        sys.stdout.write(f"{how}: rank {domain.rank} failed after {seconds:.1f} s: {message}\n")
        sys.stdout.flush()
    if "raises" in how and domain.rank == 1:
        # A process that goes on for a while takes no connection down with it.
        time.sleep(6)


def main() -> None:
    transport, *ways = sys.argv[1:]
    together, *doomed = domains(transport, 1 + len(ways))
    patience = os.environ["GRATICULE_TIMEOUT"]
    for how, domain in zip(ways, doomed, strict=True):
        # Ranks learn of an error one after the other.
        os.environ["GRATICULE_TIMEOUT"] = "60"
        collect(together, how)
        os.environ["GRATICULE_TIMEOUT"] = patience
        fail(domain, how)
    # Without the farewells of a process group whose peers may be gone.
    os._exit(0)


if __name__ == "__main__":
    main()
