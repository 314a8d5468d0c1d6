"""Above autograd: what must be known of a call before its gradients are.

Rules work below autograd, where nobody sees to whom a gradient goes. Two things are seen to here: a plain tensor beside
a DomainTensor is a replicated value, and so must be its gradient: what comes back cut is gathered. The gradient of a
DomainTensor is one, though the op that it went into gave a plain result, whose gradient is plain.
"""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.cut import Cut
from graticule.tensor.eagerly import EagerFunction
from graticule.tensor.spread import plain, spread

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
        return _Recut.apply(gradient, cut)
    return _Part.apply(gradient, cut)


def as_whole(gradient: Tensor | None) -> Tensor | None:
    """A gradient that every rank has whole."""
    return _Whole.apply(gradient) if isinstance(gradient, _class()) else gradient


def part_laid_out_as_whole(whole: Tensor, cut: Cut, moved: bool = False) -> DomainTensor:
    """This rank's part in memory of its own, with the strides that all ranks see in the whole."""
    if torch.empty_like(whole, device="meta").stride() != whole.stride():
        whole = whole.contiguous()
    return _class()(cut.part_of(whole).clone(), cut, moved, strides=whole.stride())


def _own(t: Tensor, source: Tensor) -> Tensor:
    """`t` in memory of its own, if it is `source`: autograd adds in place to gradients that it holds alone."""
    return t.clone() if t is source else t


class _Recut(EagerFunction):
    """Differentiable as the gradients of gradients are: so are the next two."""

    @staticmethod
    def forward(ctx: Any, t: DomainTensor, cut: Cut) -> Tensor:
        ctx.cut = t._cut
        local = moves.recut(t._local, t._cut, cut)
        return _class()(_own(local, t._local), cut)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return as_cut(gradient, ctx.cut), None


class _Part(EagerFunction):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, cut: Cut) -> Tensor:
        if cut.domain.size == 1 or cut.least_size > 1:
            return _class()(cut.part_of(whole).clone(), cut)
        return part_laid_out_as_whole(whole, cut)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return as_whole(gradient), None


class _Whole(EagerFunction):
    @staticmethod
    def forward(ctx: Any, t: DomainTensor) -> Tensor:
        ctx.cut = t._cut
        return _own(moves.replicate(t._local, t._cut), t._local)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return as_cut(gradient, ctx.cut)


class _Replicated(EagerFunction):
    """A replicated value whose gradient may come back cut."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        return t.view_as(t)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return as_whole(gradient)


class _ToLocal(EagerFunction):
    @staticmethod
    def forward(ctx: Any, t: DomainTensor) -> Tensor:
        ctx.cut = t._cut
        return t._local.view_as(t._local)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return from_local(gradient.clone(), ctx.cut)


class _FromLocal(EagerFunction):
    @staticmethod
    def forward(ctx: Any, local: Tensor, cut: Cut, strides: tuple[int, ...] | None) -> Tensor:
        ctx.cut = cut
        return _class()(local.view_as(local), cut, strides=strides)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        cut_gradient = as_cut(gradient, ctx.cut)
        return None if cut_gradient is None else to_local(cut_gradient).clone(), None, None  # type: ignore[arg-type]


class _Gather(_Whole):
    """As the user asks for it: a gather in the report."""

    @staticmethod
    def forward(ctx: Any, t: DomainTensor) -> Tensor:
        ctx.cut = t._cut
        return _own(moves.gather_as_laid_out(t), t._local)


def to_local(t: DomainTensor) -> Tensor:
    """See DomainTensor.local."""
    with torch._C.DisableTorchFunctionSubclass():
        return _ToLocal.apply(t)


def gather(t: DomainTensor) -> Tensor:
    """See DomainTensor.gather."""
    with torch._C.DisableTorchFunctionSubclass():
        return _Gather.apply(t)


def from_local(local: Tensor, cut: Cut, strides: tuple[int, ...] | None = None) -> DomainTensor:
    """A DomainTensor over these rows; differentiable. `strides`: see DomainTensor."""
    return _FromLocal.apply(local, cut, strides)


def shard(whole: Tensor, cut: Cut) -> DomainTensor:
    """A DomainTensor with this rank's rows of a whole tensor; differentiable."""
    return _Part.apply(whole, cut)


# Functions whose plain arguments are parameters that every row shares: what comes back for them is a sum over the rows.
_WITH_SHARED_PARAMETERS = {
    getattr(torch.nn.functional, name)
    for name in (
        "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d group_norm batch_norm "
        "instance_norm"
    ).split()
} | {torch.batch_norm, torch.group_norm, torch.instance_norm}


def _shares_parameters(func: Callable[..., Any], args: Any, kwargs: Any) -> bool:
    """Whether what comes back for plain arguments is whole."""
    x = args[0] if args else kwargs.get("input")
    if func not in _WITH_SHARED_PARAMETERS or not isinstance(x, _class()):
        return False
    return func is not torch.nn.functional.linear or x._cut.dim != x.dim() - 1


# Where two cut arguments meet in a sum, the gradient of one may be a sum over the ranks, which is whole on every rank.
_PRODUCTS = set("matmul __matmul__ __rmatmul__ mm bmm mv dot inner einsum tensordot addmm baddbmm bilinear".split())


# Functions to which a DomainTensor beside a plain tensor tells a type and a device, and nothing else.
_ONLY_TYPED = {Tensor.to, Tensor.type_as}


# Functions that are seen to whole, before they come apart, and what runs in their place.
replaced: dict[Any, Callable[..., Any]] = {}

_IN_PLACE_OPERATORS = {
    f"__{name}__"
    for name in (
        "iadd isub imul imatmul itruediv idiv ifloordiv imod ipow iand ior ixor ilshift irshift setitem".split()
    )
}


def targets(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that a call of a function of torch writes into."""
    name = getattr(func, "__name__", "")
    if isinstance(func, torch._ops.OpOverload):
        writes = func._schema.is_mutable
    else:
        writes = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        writes = writes or name in _IN_PLACE_OPERATORS
        writes = writes or bool(kwargs.get("inplace"))
    first = args[0] if args else next((kwargs[key] for key in ("input", "self", "tensor") if key in kwargs), ())
    written = list(tensors(first)) if writes else []
    return written + list(tensors(kwargs["out"])) if "out" in kwargs else written


def tensors(value: Any) -> Any:
    """All tensors in lists, tuples and dictionaries of arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors(part)


def _refuse_own_rows(t: Tensor) -> None:
    """RuntimeError for what `.local` gave: rows that differ from rank to rank are no replicated value.

    Shards of one row each would broadcast, and the sum over the ranks of their gradients be taken for each rank's own.
    """
    maker = t.grad_fn
    if isinstance(maker, _ToLocal._backward_cls) and maker.cut.domain.size > 1:
        domain = maker.cut.domain
        raise RuntimeError(
            f"beside a DomainTensor: rank {domain.rank} of {domain.size}: expected a tensor that every rank has alike, "
            f"got .local, this rank's rows alone, {list(t.shape)}; graticule.from_local makes a DomainTensor of them"
        )


def _with_replicated(value: Any, kind: type) -> Any:
    if isinstance(value, Tensor):
        if isinstance(value, kind) or not value.requires_grad:
            return value
        _refuse_own_rows(value)
        return _Replicated.apply(value)
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
            for g in map(plain, grad_inputs)
        )

    for t in tensors(result):
        # Some functions give a replicated argument back as it is: its gradient is none of a DomainTensor's.
        if cuts and not isinstance(t, kind) and not isinstance(t.grad_fn, (NoneType, _Replicated._backward_cls)):
            t.grad_fn.register_hook(cut_plain)
            if t.grad_fn.name().startswith("MeanBackward"):
                t.grad_fn.register_prehook(spread)


def _keep_cut(t: Any) -> None:
    """Lets a tensor's gradient come by the tensor's own cut."""
    cell = getattr(t, "_kept_cut", None)
    if t.is_leaf and cell is not None:
        return
    if cell is None:
        # What the hook sees of the tensor, which it must not keep alive: `t.data = other` changes the cut.
        cell = t._kept_cut = [t._cut]
    t.register_hook(lambda gradient: as_cut(gradient, cell[0]))


_requires_grad_set = Tensor.requires_grad.__set__  # type: ignore[attr-defined]
_data_set = Tensor.data.__set__  # type: ignore[attr-defined]


# What shows a tensor's gradient to the user, who expects it cut like the tensor.
_WANTING_GRADIENTS = {Tensor.retain_grad, Tensor.register_hook}


def _set_data(t: Tensor, value: Tensor) -> None:
    """`t.data = value`: t takes the other's rows for its own."""
    kind = _class()
    if not isinstance(t, kind) or not isinstance(value, kind):
        raise TypeError(
            f"data: expected two DomainTensors or none, got {type(t).__name__}.data = {type(value).__name__}"
        )
    _data_set(t, value)
    for name in ("_local", "_cut", "_moved", "_strides_are_guessed", "_source", "_writes_when_made"):
        setattr(t, name, getattr(value, name, None))
    if hasattr(t, "_kept_cut"):
        t._kept_cut[0] = t._cut


def call(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Runs a function of torch on DomainTensors among its arguments.

    Autograd remembers of each view how it was made: by strides and offsets in memory it could not make it again.
    """
    replays = torch._C._is_view_replay_enabled()
    torch._C._set_view_replay_enabled(True)
    try:
        return _call(func, args, kwargs)
    finally:
        torch._C._set_view_replay_enabled(replays)


def _call(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    name = getattr(func, "__name__", "")
    called, func = func, replaced.get(func, func)
    kind = _class()
    if name == "__set__" and func == _data_set:
        return _set_data(*args)
    if func is Tensor.requires_grad_ or name == "__set__" and func == _requires_grad_set:
        before = args[0].requires_grad
        result = func(*args, **kwargs)
        if type(args[0]) is kind and args[0].requires_grad and not before and args[0].is_leaf:
            _keep_cut(args[0])
        return result
    if func in _WANTING_GRADIENTS and type(args[0]) is kind and args[0].requires_grad:
        _keep_cut(args[0])
    if name == "__get__" or not torch.is_grad_enabled():
        return func(*args, **kwargs)
    given = list(tensors(args)) + list(tensors(kwargs))
    written = targets(called, args, kwargs)
    writes = bool(written)
    plain_needs = any(type(t) is not kind and t.requires_grad for t in given)
    if plain_needs and func in _ONLY_TYPED and args and type(args[0]) is not kind:
        return func(*args, **kwargs)
    shared = plain_needs and _shares_parameters(func, args, kwargs)
    if plain_needs and not shared:
        if not writes:
            args, kwargs = _with_replicated(args, kind), _with_replicated(kwargs, kind)
        elif args and written[0] is args[0]:
            args = (args[0], *_with_replicated(args[1:], kind))
            kwargs = {key: value if key == "out" else _with_replicated(value, kind) for key, value in kwargs.items()}
    if name in _PRODUCTS and sum(type(t) is kind for t in given) > 1:
        for t in given:
            if type(t) is kind and t.requires_grad:
                _keep_cut(t)
    result = func(*args, **kwargs)
    if shared and func is torch.nn.functional.linear and type(result) is kind:
        # Of a gradient that comes by features the weight's would be made by features too.
        _keep_cut(result)
    if not writes:
        _keep_gradients_cut(result, given, kind)
    for t in written:
        if type(t) is kind and t.requires_grad and (t._is_view() or called is Tensor.__setitem__):
            # Backward writes into the same view of the base's gradient: by another cut its rows might have to move.
            _keep_cut(t._base if t._is_view() else t)
        if type(t) is kind and t.retains_grad:
            # The gradient that is kept is that of what t is now.
            _keep_cut(t)
    return result
