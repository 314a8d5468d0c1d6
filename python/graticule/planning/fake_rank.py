"""A rank of a domain that is not there: meta tensors, and no messages."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from graticule.domain import Domain
from graticule.planning.traffic import bytes_sent
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import find_rule

_worlds = itertools.count()


class FakeMessages(TorchDispatchMode):
    """Gives what graticule's ops give in shape, sends nothing, and counts what would be sent."""

    def __init__(self, domain: Domain) -> None:
        super().__init__()
        self.domain = domain
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(issubclass(kind, DomainTensor) for kind in types):
            with self:
                return find_rule(func)(func, *args, **kwargs)
        if func.namespace != "graticule":
            return func(*args, **kwargs)
        if func._schema.name == "graticule::interpolate":
            # Of ops that send.
            with self:
                return func.decompose(*args, **kwargs)
        self.bytes += bytes_sent(func, args, kwargs, self.domain.rank, self.domain.size)
        name = func._schema.name.partition("::")[2]
        if name == "all_reduce_sum_":
            return args[0]
        if name == "all_to_all":
            return args[0].new_empty(sum(args[2]))
        if name == "convolution_halo":
            x, weight, *options = args
            return torch.ops.graticule.convolution_with_halo(x, weight, None, *options, **kwargs)[1:]
        return None if name == "check_equal" else func(*args, **kwargs)


@contextlib.contextmanager
def fake_rank(rank: int, ranks: int) -> Iterator[FakeMessages]:
    """Rank `rank` of a domain without others, within which graticule's ops send nothing."""
    domain = Domain.threads(f"plan{next(_worlds)}", rank, ranks)
    try:
        with FakeMessages(domain) as messages:
            yield messages
    finally:
        torch.ops.graticule.destroy_thread_group(domain.group_name)


@contextlib.contextmanager
def saved_bytes(model: torch.nn.Module) -> Iterator[list[int]]:
    """Bytes that autograd keeps of the forward pass for the backward one, parameters apart, as they come."""
    seen = {_storage(t) for t in [*model.parameters(), *model.buffers()]}
    found: list[int] = []

    def pack(t: Tensor) -> Tensor:
        own = t._local if isinstance(t, DomainTensor) else t
        if _storage(own) not in seen:
            seen.add(_storage(own))
            found.append(own.untyped_storage().nbytes())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        yield found


def _storage(t: Tensor) -> int:
    return t.untyped_storage()._cdata
