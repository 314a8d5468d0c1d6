"""A layer over a module that stays as it is: same parameters, same hooks, same state-dict keys."""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook as has_global_hooks

from graticule.compiling import fixed_shape
from graticule.domain import Domain
from graticule.domain_parallel.cuts import RowCuts, Rows, printed
from graticule.domain_parallel.manager import active_domain

# What names a module's state, and the hooks that make its parameters before forward: shared with the wrapped module, so
# that each sees what is done through the other.
_SHARED = (
    "_parameters",
    "_buffers",
    "_non_persistent_buffers_set",
    "_modules",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


class _OfWrappedClass:
    """Of the wrapped module's class for torch.nn.utils, which asks for a module's class and swaps it (parametrizations
    do): so they act on the wrapped module. Apart from BorrowingLayer, whose super() needs the name `__class__`.
    """

    @property
    def __class__(self) -> type:
        wrapped = _wrapped_by(self)
        # Not for everybody: torch.compile would take the wrapped class's forward for the layer's.
        asked_by_utils = sys._getframe(1).f_globals.get("__name__", "").startswith("torch.nn.utils")
        return type(wrapped) if asked_by_utils and wrapped is not None else type(self)

    @__class__.setter
    def __class__(self, kind: type) -> None:
        if issubclass(kind, type(self)):
            object.__dict__["__class__"].__set__(self, kind)
        else:
            self.__dict__[self.__dict__["_wrapped_name"]].__class__ = kind


def _wrapped_by(layer: Any) -> Any:
    """None while the layer is being made."""
    return layer.__dict__.get(layer.__dict__.get("_wrapped_name", ""))


class BorrowingLayer(_OfWrappedClass, nn.Module):
    """Base of the layers that wrap a module.

    The wrapped module is not a child but shares its dictionaries of parameters, buffers and children with this one: the
    state-dict keys, parameter names and devices of a model are the same with either. Whatever attribute the layer has
    not itself is read, set and deleted on the wrapped module: what is done to the layer, such as pruning, is done to
    the module. Hooks before forward are both's, and run once.
    """

    def __init__(self, name: str, module: nn.Module, shard_dim: int, domain: Any, rows: Rows) -> None:
        super().__init__()
        self.shard_dim = shard_dim
        # A Domain, not a manager or a process group: those can be neither copied nor pickled.
        self.domain = None if domain is None else Domain.of(domain)
        self._cuts = RowCuts(type(self).__name__, rows)
        self.training = module.training
        self._wrapped_name = name
        self._borrow(module)

    def _borrow(self, module: nn.Module) -> None:
        object.__setattr__(self, self._wrapped_name, module)
        for key in _SHARED:
            if key in module.__dict__:
                self.__dict__[key] = module.__dict__[key]

    @property
    def wrapped(self) -> nn.Module:
        """The module as it was given."""
        return self.__dict__[self._wrapped_name]

    def __getattr__(self, name: str) -> Any:
        wrapped = _wrapped_by(self)
        return super().__getattr__(name) if wrapped is None else getattr(wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if _wrapped_by(self) is None or name in self.__dict__ or hasattr(type(self), name):
            super().__setattr__(name, value)
        else:
            setattr(self.wrapped, name, value)

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__:
            super().__delattr__(name)
        else:
            delattr(self.wrapped, name)

    def train(self, mode: bool = True) -> Any:
        """Sets the mode of the wrapped module too."""
        self.wrapped.train(mode)
        return super().train(mode)

    def forward(self, input: Tensor, *args: Any) -> Tensor:
        """This rank's rows of what the wrapped module gives on the uncut tensor. All ranks of the domain must call."""
        domain = active_domain(self.domain)
        if domain is None:
            return self._uncut(input, *args)
        module = self.__dict__[self._wrapped_name]
        if _has_no_hooks(module):
            return self._on_cut(module, domain, fixed_shape(input), *args)

        def on_cut(module: Any, x: Tensor, *rest: Any) -> Tensor:
            return self._on_cut(module, domain, fixed_shape(x), *rest)

        return call_as(module, on_cut, input, *args, pre_hooks=False)

    def _uncut(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the wrapped module gives for the tensor as it is. The hooks before its forward are the layer's: done."""
        module = self.wrapped
        if not module._forward_pre_hooks:
            return module(*args, **kwargs)
        return call_as(module, type(module).forward, *args, pre_hooks=False, **kwargs)

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
        return f"{printed(self.wrapped)}, shard_dim={self.shard_dim}"

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
    """Whether a call of `module` is its forward and nothing else, but for the hooks that the layer has run."""
    return not (
        module._forward_hooks
        or module._backward_pre_hooks
        or module._backward_hooks
        or has_global_hooks()
        or type(module).__call__ is not nn.Module.__call__
    )


def _call_traced(module: nn.Module, forward: Callable[..., Tensor], args: tuple, kwargs: dict, pre_hooks: bool) -> Any:
    """The same in code that torch.compile can trace."""
    if module._backward_hooks or module._backward_pre_hooks:
        raise RuntimeError(f"torch.compile of a cut layer over {module}: backward hooks of it are not supported")
    for key, hook in list(module._forward_pre_hooks.items()) if pre_hooks else []:
        if key in module._forward_pre_hooks_with_kwargs:
            given = hook(module, args, kwargs)
            args, kwargs = (args, kwargs) if given is None else given
        else:
            given = hook(module, args)
            args = args if given is None else given if isinstance(given, tuple) else (given,)
    result = forward(module, *args, **kwargs)
    for key, hook in list(module._forward_hooks.items()):
        with_kwargs = key in module._forward_hooks_with_kwargs
        changed = hook(module, args, kwargs, result) if with_kwargs else hook(module, args, result)
        result = result if changed is None else changed
    return result


def call_as(
    module: nn.Module, forward: Callable[..., Tensor], *args: Any, pre_hooks: bool = True, **kwargs: Any
) -> Tensor:
    """Calls `module` with another forward: its hooks and parametrizations run as always, with a module of its class.

    What a pre-hook leaves on the module, such as the weight that spectral normalisation computes, is left on it.
    Without `pre_hooks` none runs.
    """
    if torch.compiler.is_dynamo_compiling():
        return _call_traced(module, forward, args, kwargs, pre_hooks)
    twin = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    before = dict(twin.__dict__)
    # What module.compile() made is of the uncut forward.
    other: dict[str, Any] = {
        "forward": lambda *given, **named: forward(twin, *given, **named),
        "_compiled_call_impl": None,
    }
    if not pre_hooks:
        other["_forward_pre_hooks"] = OrderedDict()
    twin.__dict__.update(other)
    result = twin(*args, **kwargs)
    for key, value in twin.__dict__.items():
        if key not in other and before.get(key) is not value:
            module.__dict__[key] = value
    return result
