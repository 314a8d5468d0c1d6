"""The rows of every layer's whole input, from those of the model's: shapes traced once, no message."""

from __future__ import annotations

import concurrent.futures
import copy
from typing import Any

import torch
from torch import Tensor, nn

from graticule.compiling import at_trace_time, fixed_shape
from graticule.domain import Domain
from graticule.domain_parallel.borrowed import BorrowingLayer
from graticule.domain_parallel.layers import DomainParallelInterpolate
from graticule.domain_parallel.manager import active_domain, plain_layers

_Like = tuple[tuple[int, ...], torch.dtype]


def _like(value: Tensor) -> _Like:
    return tuple(fixed_shape(value).shape), value.dtype


class TracedRows:
    """Runs a copy of the unconverted model on meta tensors of the whole grid at the first call of the converted one."""

    def __init__(self, model: nn.Module, rows: int, manager: Any, shard_dim: int) -> None:
        self.rows = rows
        # A manager or a process group can be neither copied nor pickled.
        self.manager = None if manager is None else Domain.of(manager)
        self.shard_dim = shard_dim
        self._plain: nn.Module | None = copy.deepcopy(model).to("meta")

    def attach(self, converted: nn.Module) -> None:
        """Traces before the first forward of `converted`."""
        self._handle = converted.register_forward_pre_hook(self._trace, with_kwargs=True)

    def _whole(self, like: _Like) -> Tensor:
        shape = list(like[0])
        if len(shape) >= 3:
            shape[self.shard_dim if len(shape) > 3 else -1] = self.rows
        return torch.empty(shape, dtype=like[1], device="meta")

    def _trace(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if not torch.compiler.is_dynamo_compiling():
            self._handle.remove()
        names = [*[None] * len(args), *kwargs]
        values = [*args, *kwargs.values()]
        likes = [_like(value) if isinstance(value, Tensor) else None for value in values]
        others = [None if isinstance(value, Tensor) else value for value in values]
        if torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling():
            # What torch.export records is recorded in this thread, and these shapes are no part of it.
            with concurrent.futures.ThreadPoolExecutor(1) as thread:
                thread.submit(self.find, model, names, likes, others).result()
        else:
            _find_rows(self, model, names, likes, others)

    def find(self, model: nn.Module, names: list[str | None], likes: list[_Like | None], others: list[Any]) -> None:
        """Traces once, from the call's arguments: named or not, each a tensor like this or another value."""
        if self._plain is None or active_domain(self.manager) is None:
            return
        values = [other if like is None else self._whole(like) for like, other in zip(likes, others, strict=True)]
        args = [value for name, value in zip(names, values, strict=True) if name is None]
        kwargs = {name: value for name, value in zip(names, values, strict=True) if name is not None}
        seen: dict[str, set[int]] = {}
        hooks = []
        for name, module in self._plain.named_modules():

            def record(_: nn.Module, given: tuple, name: str = name) -> None:
                if given and isinstance(given[0], Tensor) and given[0].dim() >= 3:
                    seen.setdefault(name, set()).add(given[0].shape[self.shard_dim if given[0].dim() > 3 else -1])

            hooks.append(module.register_forward_pre_hook(record))
        try:
            with torch.no_grad(), plain_layers():
                self._plain(*args, **kwargs)
        except Exception as error:
            raise ValueError(
                "convert_to_domain_parallel: rows= needs a model that runs on meta tensors, and this one does not "
                f"({error}). Give rows as a mapping of module names, or leave it out."
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        for name, module in model.named_modules():
            # A layer that meets several sizes in one call exchanges them as it meets them.
            if isinstance(module, (BorrowingLayer, DomainParallelInterpolate)) and len(seen.get(name, ())) == 1:
                module._cuts.rows = next(iter(seen[name]))
        self._plain = None


@at_trace_time
def _find_rows(
    traced: TracedRows, model: nn.Module, names: list[str | None], likes: list[_Like | None], others: list[Any]
) -> None:
    traced.find(model, names, likes, others)
