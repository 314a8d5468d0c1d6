"""Above autograd: what must be known of a call before its gradients are.

Rules work below autograd, where nobody sees to whom a gradient goes. Two things are seen to here: a plain tensor beside
a DomainTensor is a replicated value, and so must be its gradient: what comes back cut is gathered. The gradient of a
DomainTensor is one, though the op that it went into gave a plain result, whose gradient is plain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.cut import Cut

if TYPE_CHECKING:
    from graticule.tensor.domain_tensor import DomainTensor


def _class() -> type[DomainTensor]:
    from graticule.tensor.domain_tensor import DomainTensor

    return DomainTensor


def as_cut(gradient: Tensor | None, cut: Cut) -> Tensor | None:
    """A gradient by the cut of what it belongs to."""
    if gradient is None:
        return None
    kind = _class()
    if isinstance(gradient, kind):
        if gradient._cut == cut:
            return gradient
        return kind(moves.recut(gradient._local, gradient._cut, cut), cut)
    return kind(cut.part_of(gradient), cut)


def as_whole(gradient: Tensor | None) -> Tensor | None:
    """A gradient that every rank has whole."""
    if isinstance(gradient, _class()):
        return moves.replicate(gradient._local, gradient._cut)
    return gradient


class _Replicated(torch.autograd.Function):
    """A replicated value whose gradient may come back cut."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        return t.view_as(t)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return as_whole(gradient)


class _ToLocal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: DomainTensor) -> Tensor:
        ctx.cut = t._cut
        return t._local.view_as(t._local)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _class()(gradient, ctx.cut)


class _FromLocal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, cut: Cut) -> Tensor:
        ctx.cut = cut
        return _class()(local.view_as(local), cut)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        cut_gradient = as_cut(gradient, ctx.cut)
        return None if cut_gradient is None else cut_gradient._local, None  # type: ignore[attr-defined]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: DomainTensor) -> Tensor:
        ctx.cut = t._cut
        whole = moves.gather(t._local, t._cut)
        return whole.view_as(whole)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return as_cut(gradient, ctx.cut)


class _Shard(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, cut: Cut) -> Tensor:
        return _class()(cut.part_of(whole).clone(memory_format=torch.preserve_format), cut)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return as_whole(gradient), None


def to_local(t: DomainTensor) -> Tensor:
    """See DomainTensor.local."""
    with torch._C.DisableTorchFunctionSubclass():
        return _ToLocal.apply(t)


def gather(t: DomainTensor) -> Tensor:
    """See DomainTensor.gather."""
    with torch._C.DisableTorchFunctionSubclass():
        return _Gather.apply(t)


def from_local(local: Tensor, cut: Cut) -> DomainTensor:
    """A DomainTensor over these rows; differentiable."""
    return _FromLocal.apply(local, cut)


def shard(whole: Tensor, cut: Cut) -> DomainTensor:
    """A DomainTensor with this rank's rows of a whole tensor; differentiable."""
    return _Shard.apply(whole, cut)


# Functions whose plain arguments are parameters that every row shares: what comes back for them is a sum over the rows.
_WITH_SHARED_PARAMETERS = {
    getattr(torch.nn.functional, name)
    for name in (
        "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d group_norm batch_norm "
        "instance_norm embedding prelu"
    ).split()
} | {torch.batch_norm, torch.group_norm, torch.instance_norm, torch.prelu}


def _tensors(value: Any) -> Any:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)


def _with_replicated(value: Any, kind: type) -> Any:
    if isinstance(value, Tensor):
        return value if isinstance(value, kind) or not value.requires_grad else _Replicated.apply(value)
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_with_replicated(part, kind) for part in value)
    if isinstance(value, list):
        return [_with_replicated(part, kind) for part in value]
    if type(value) is dict:
        return {key: _with_replicated(part, kind) for key, part in value.items()}
    return value


def _keep_gradients_cut(result: Any, given: list[Any], kind: type[DomainTensor]) -> None:
    cuts = {tuple(t.shape): t._cut for t in given if isinstance(t, kind) and t.requires_grad}

    def cut_plain(grad_inputs: Any, grad_outputs: Any) -> Any:
        return tuple(
            as_cut(g, cuts[tuple(g.shape)])
            if g is not None and not isinstance(g, kind) and tuple(g.shape) in cuts
            else g
            for g in grad_inputs
        )

    for t in _tensors(result):
        if cuts and not isinstance(t, kind) and t.grad_fn is not None:
            t.grad_fn.register_hook(cut_plain)


def _keep_leaf_cut(t: Any) -> None:
    """Lets a leaf's gradient come by the leaf's own cut."""
    cut = t._cut
    t.register_hook(lambda gradient: as_cut(gradient, cut))


_requires_grad_set = Tensor.requires_grad.__set__  # type: ignore[attr-defined]


def call(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Runs a function of torch on DomainTensors among its arguments."""
    name = getattr(func, "__name__", "")
    if name == "__setitem__" and isinstance(args[0], _class()):
        raise RuntimeError(
            f"rank {args[0]._cut.domain.rank}: a DomainTensor cannot be written into by an index: use torch.where"
        )
    if name == "__get__" or not torch.is_grad_enabled():
        return func(*args, **kwargs)
    kind = _class()
    if func is Tensor.requires_grad_ or func is _requires_grad_set:
        before = args[0].requires_grad
        result = func(*args, **kwargs)
        if args[0].requires_grad and not before and args[0].is_leaf:
            _keep_leaf_cut(args[0])
        return result
    given = list(_tensors(args)) + list(_tensors(kwargs))
    if func is Tensor.backward or func is torch.autograd.grad:
        return func(*args, **kwargs)
    writes = name.endswith("_") and not name.endswith("__") or name == "__setitem__" or "out" in kwargs
    plain_needs = any(type(t) is not kind and t.requires_grad for t in given)
    if plain_needs and not writes and func not in _WITH_SHARED_PARAMETERS:
        args, kwargs = _with_replicated(args, kind), _with_replicated(kwargs, kind)
    result = func(*args, **kwargs)
    if not writes:
        _keep_gradients_cut(result, given, kind)
    return result
