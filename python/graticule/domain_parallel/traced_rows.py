"""The rows of every layer's whole input, from those of the model's: shapes traced once, no message."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from graticule.domain_parallel.borrowed import BorrowingLayer
from graticule.domain_parallel.layers import DomainParallelInterpolate
from graticule.domain_parallel.manager import active_domain, plain_layers


class TracedRows:
    """Runs a copy of the unconverted model on meta tensors of the whole grid at the first call of the converted one."""

    def __init__(self, model: nn.Module, rows: int, manager: Any, shard_dim: int) -> None:
        self.rows = rows
        self.manager = manager
        self.shard_dim = shard_dim
        self._plain = copy.deepcopy(model).to("meta")

    def attach(self, converted: nn.Module) -> None:
        """Traces before the first forward of `converted`."""
        self._handle = converted.register_forward_pre_hook(self._trace, with_kwargs=True)

    def _whole(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        shape = list(value.shape)
        if value.dim() >= 3:
            shape[self.shard_dim] = self.rows
        return torch.empty(shape, dtype=value.dtype, device="meta")

    def _trace(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self._handle.remove()
        if active_domain(self.manager) is None:
            return
        seen: dict[str, set[int]] = {}
        hooks = []
        for name, module in self._plain.named_modules():

            def record(_: nn.Module, given: tuple, name: str = name) -> None:
                if given and isinstance(given[0], Tensor) and given[0].dim() >= 3:
                    seen.setdefault(name, set()).add(given[0].shape[self.shard_dim if given[0].dim() > 3 else -1])

            hooks.append(module.register_forward_pre_hook(record))
        try:
            with torch.no_grad(), plain_layers():
                self._plain(*map(self._whole, args), **{k: self._whole(v) for k, v in kwargs.items()})
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
        del self._plain
