"""A layer over a module that stays as it is: same parameters, same hooks, same state-dict keys."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook as has_global_hooks

from graticule.compiling import fixed_shape
from graticule.domain import Domain
from graticule.domain_parallel.cuts import RowCuts, Rows
from graticule.domain_parallel.manager import active_domain

# What names a module's state: shared with the wrapped module, so that each sees what is done through the other.
_SHARED = (
    "_parameters",
    "_buffers",
    "_non_persistent_buffers_set",
    "_modules",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


class BorrowingLayer(nn.Module):
    """Base of the layers that wrap a module.

    The wrapped module is not a child but shares its dictionaries of parameters, buffers and children with this one: the
    state-dict keys, parameter names and devices of a model are the same with either. It is not changed.
    """

    def __init__(self, name: str, module: nn.Module, shard_dim: int, domain: Any, rows: Rows) -> None:
        super().__init__()
        self._wrapped_name = name
        self._borrow(module)
        self.shard_dim = shard_dim
        # A Domain, not a manager or a process group: those can be neither copied nor pickled.
        self.domain = None if domain is None else Domain.of(domain)
        self._cuts = RowCuts(type(self).__name__, rows)
        self.training = module.training

    def _borrow(self, module: nn.Module) -> None:
        object.__setattr__(self, self._wrapped_name, module)
        for key in _SHARED:
            if key in module.__dict__:
                self.__dict__[key] = module.__dict__[key]

    @property
    def wrapped(self) -> nn.Module:
        """The module as it was given."""
        return self.__dict__[self._wrapped_name]

    def _is_option(self, name: str) -> bool:
        """Whether `name` is an option of the wrapped module, such as stride or eps: read and set there."""
        wrapped = self.__dict__.get(self.__dict__.get("_wrapped_name", ""))
        return wrapped is not None and name in getattr(wrapped, "__constants__", ())

    def __getattr__(self, name: str) -> Any:
        """The wrapped module's options are the layer's too."""
        return getattr(self.wrapped, name) if self._is_option(name) else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if self._is_option(name):
            setattr(self.wrapped, name, value)
        else:
            super().__setattr__(name, value)

    def train(self, mode: bool = True) -> Any:
        """Sets the mode of the wrapped module too."""
        self.wrapped.train(mode)
        return super().train(mode)

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """This rank's rows of what the wrapped module gives on the uncut tensor. All ranks of the domain must call."""
        domain = active_domain(self.domain)
        module = self.__dict__[self._wrapped_name]
        if domain is None:
            return module(x, *args)
        if _has_no_hooks(module):
            return self._on_cut(module, domain, fixed_shape(x), *args)
        return call_as(module, lambda module, x, *rest: self._on_cut(module, domain, fixed_shape(x), *rest), x, *args)

    def _on_cut(self, module: Any, domain: Any, x: Tensor, *args: Any) -> Tensor:
        raise NotImplementedError

    def error(self, domain: Any, expected: str, got: Any) -> ValueError:
        """An error that names the layer, what was expected, what came and the rank."""
        return ValueError(
            f"{type(self).__name__}: expected {expected}, got {got} (rank {domain.rank} of {domain.size})"
        )

    def _batched(self, x: Tensor, spatial_dims: int, domain: Any) -> tuple[Tensor, bool, int]:
        """X with a batch dimension, whether it had one, and the cut dimension of it."""
        if x.dim() not in (spatial_dims + 1, spatial_dims + 2):
            raise self.error(
                domain, f"an input of {spatial_dims + 2} dimensions, or {spatial_dims + 1} without a batch", x.dim()
            )
        batched = x.dim() == spatial_dims + 2
        x = x if batched else x.unsqueeze(0)
        return x, batched, cut_dimension(self.shard_dim, x.dim(), type(self).__name__)

    def extra_repr(self) -> str:  # noqa: D102
        return f"{self.wrapped}, shard_dim={self.shard_dim}"

    def __deepcopy__(self, memo: dict) -> Any:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy({k: v for k, v in self.__dict__.items() if k not in _SHARED}, memo))
        twin._borrow(twin.__dict__[self._wrapped_name])
        return twin

    def __getstate__(self) -> dict[str, Any]:
        # What a layer remembers of its last call is not its state.
        return {k: v for k, v in self.__dict__.items() if k not in (*_SHARED, "_last")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._borrow(state[self._wrapped_name])


def changed_forward(module: nn.Module, kind: type) -> bool:
    """Whether `module`, of class `kind` or a subclass of it, computes something else than `kind` does."""
    if "forward" in module.__dict__:
        return True
    return any(
        getattr(type(module), name, None) is not getattr(kind, name, None) for name in ("forward", "_conv_forward")
    )


def refuse_changed_forward(layer: str, module: nn.Module, kind: type) -> None:
    """TypeError for such a module: the cut layer would compute what `kind` computes."""
    if changed_forward(module, kind):
        raise TypeError(
            f"{layer}: expected the forward of {kind.__name__}, got a {type(module).__name__} with one of its own, "
            "which the cut layer cannot see"
        )


def cut_dimension(shard_dim: int, dims: int, layer: str) -> int:
    """The cut dimension of a batched tensor of `dims` dimensions.

    A negative shard_dim counts from the end, another in the layout (N, C, spatial...); a tensor of one spatial
    dimension
    is cut along that. ValueError where it is not a spatial dimension.
    """
    dim = 2 if dims == 3 else shard_dim + dims if shard_dim < 0 else shard_dim
    if not 2 <= dim < dims:
        raise ValueError(f"{layer}: shard_dim {shard_dim} is not a spatial dimension of a tensor of {dims} dimensions")
    return dim


def _has_no_hooks(module: nn.Module) -> bool:
    """Whether a call of `module` is its forward and nothing else."""
    return not (
        module._forward_pre_hooks
        or module._forward_hooks
        or module._backward_pre_hooks
        or module._backward_hooks
        or has_global_hooks()
        or type(module).__call__ is not nn.Module.__call__
    )


def _call_traced(module: nn.Module, forward: Callable[..., Tensor], *args: Any) -> Tensor:
    """The same in code that torch.compile can trace."""
    if module._backward_hooks or module._backward_pre_hooks:
        raise RuntimeError(f"torch.compile of a cut layer over {module}: backward hooks of it are not supported")
    for key, hook in list(module._forward_pre_hooks.items()):
        if key in module._forward_pre_hooks_with_kwargs:
            given = hook(module, args, {})
            args = args if given is None else given[0]
        else:
            given = hook(module, args)
            args = args if given is None else given if isinstance(given, tuple) else (given,)
    result = forward(module, *args)
    for key, hook in list(module._forward_hooks.items()):
        with_kwargs = key in module._forward_hooks_with_kwargs
        changed = hook(module, args, {}, result) if with_kwargs else hook(module, args, result)
        result = result if changed is None else changed
    return result


def call_as(module: nn.Module, forward: Callable[..., Tensor], *args: Any) -> Tensor:
    """Calls `module` with another forward: its hooks and parametrizations run as always, with a module of its class.

    What a pre-hook leaves on the module, such as the weight that spectral normalisation computes, is left on it.
    """
    if torch.compiler.is_dynamo_compiling():
        return _call_traced(module, forward, *args)
    twin = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    before = dict(twin.__dict__)
    twin.__dict__["forward"] = lambda *given: forward(twin, *given)
    # What module.compile() made is of the uncut forward.
    twin.__dict__["_compiled_call_impl"] = None
    result = twin(*args)
    for key, value in twin.__dict__.items():
        if key not in ("forward", "_compiled_call_impl") and before.get(key) is not value:
            module.__dict__[key] = value
    return result
