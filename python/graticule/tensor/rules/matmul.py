"""Products of matrices and vectors.

Cut along rows or columns of the result, or along the batch: each rank makes its own. Cut along what is summed over:
each rank's part of the sum, then the sum over the ranks, whole on every rank; so are gradients of weights made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from graticule.tensor import functions, moves
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.contraction import Contraction
from graticule.tensor.rules.pointwise import own_part

aten = torch.ops.aten


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a.unsqueeze(1) * b


def _summed_bmm(a: Tensor, b: Tensor) -> Tensor:
    return aten.mm.default(a.transpose(0, 1).flatten(1), b.flatten(0, 1))


_MATRICES = Contraction(("mk", "kn"), "mn")
_BATCHES = Contraction(("bmk", "bkn"), "bmn")
_MATRIX_VECTOR = Contraction(("mk", "k"), "m")

_PRODUCTS = {
    aten.mm.default: _MATRICES,
    aten.bmm.default: _BATCHES,
    aten.mv.default: _MATRIX_VECTOR,
    aten.dot.default: Contraction(("k", "k"), ""),
    aten.vdot.default: Contraction(("k", "k"), ""),
}

_SUMS: dict[str, tuple[Contraction, Callable[..., Tensor]]] = {
    "addmm": (_MATRICES, aten.mm.default),
    "baddbmm": (_BATCHES, aten.bmm.default),
    "addmv": (_MATRIX_VECTOR, aten.mv.default),
    "addbmm": (Contraction(("bmk", "bkn"), "mn"), _summed_bmm),
    "addr": (Contraction(("m", "n"), "mn"), _outer),
}


@rule(*_PRODUCTS)
def product(op: Any, a: Tensor, b: Tensor) -> Tensor:
    """A product of two."""
    return _PRODUCTS[op].run(op, op, (a, b))


@rule(*(getattr(aten, name).default for name in _SUMS))
def added_product(op: Any, x: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """The sum beta * x + alpha * (a times b). Where the product is a sum over the ranks, x is added once, after it."""
    contraction, multiply = _SUMS[op._schema.name.removeprefix("aten::")]
    plan = contraction.plan(op, (a, b))
    result = contraction.result
    if plan is None:
        return _plus(op, x, multiply(a, b), beta, alpha)
    index, cut = plan
    parts = contraction.parts((a, b), index, cut)
    if index not in result:
        return _plus(op, x, moves.reduce_sum(multiply(*parts), cut.domain), beta, alpha)
    cut = cut.at(result.index(index))
    sizes = contraction.sizes(op, (a, b))
    shape = [sizes[i] for i in result]
    _check_sum(op, x, shape, a.dtype)
    own = own_part(x, cut, len(shape))
    if cut.own == 0:
        # ATen gives one row of x that is to be repeated its place in a result of none.
        own = own.expand([0 if d == cut.dim else n for d, n in enumerate(shape)])
    return DomainTensor(op(own, *parts, beta=beta, alpha=alpha), cut)


def _check_sum(op: Any, x: Tensor, shape: Sequence[int], dtype: torch.dtype) -> None:
    """RuntimeError where x cannot be repeated to what is added to it, or is of another type."""
    apart = len(shape) - x.dim()
    fits = apart >= 0 and all(n in (1, shape[d]) for d, n in enumerate(x.shape, apart))
    if not fits or x.dtype != dtype:
        raise RuntimeError(
            f"{op}: expected a sum of shape {list(shape)} and {dtype}, got {list(x.shape)} and {x.dtype}"
        )


def _plus(op: Any, x: Tensor, made: Tensor, beta: Any, alpha: Any) -> Tensor:
    _check_sum(op, x, made.shape, made.dtype)
    scaled = made if alpha == 1 else made * alpha
    if beta == 0:
        return scaled
    return aten.add.Tensor(scaled, x, alpha=beta)


@rule(*(getattr(aten, f"{name}_").default for name in _SUMS))
def added_product_in_place(op: Any, x: Tensor, a: Tensor, b: Tensor, **scales: Any) -> Tensor:
    """The same, written into x."""
    fresh = getattr(aten, op._schema.name.removeprefix("aten::").removesuffix("_")).default
    return aten.copy_.default(x, added_product(fresh, x, a, b, **scales))


@rule(aten._trilinear.default)
def trilinear(
    op: Any,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    expand_a: list[int],
    expand_b: list[int],
    expand_c: list[int],
    summed: list[int],
    unroll_dim: int = 1,
) -> Any:
    """Three tensors, each expanded by new dimensions, multiplied, and summed over some."""
    ndim = a.dim() + len(expand_a)
    expanded = (expand_a, expand_b, expand_c)
    indices = tuple(tuple(d for d in range(ndim) if d not in new) for new in expanded)
    contraction = Contraction(indices, tuple(d for d in range(ndim) if d not in summed))
    return contraction.run(op, lambda *parts: op(*parts, *expanded, summed, unroll_dim), (a, b, c))


def _matmul(input: Tensor, other: Tensor, *, out: Tensor | None = None) -> Tensor:
    """torch.matmul, whose own code reshapes what it is given to write into."""
    if out is None:
        return torch.matmul(input, other)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (input, other, out)):
        raise RuntimeError("matmul: no gradients go through what is written into a given tensor, and one is asked for")
    result = torch.matmul(input, other)
    if out.shape != result.shape and out.numel() == 0 and not isinstance(out, DomainTensor):
        out.resize_(result.shape)
    if out.shape != result.shape or out.dtype != result.dtype or out.device != result.device:
        raise RuntimeError(
            f"matmul: expected {result.dtype} of shape {list(result.shape)} on {result.device} to write into, got "
            f"{out.dtype} of {list(out.shape)} on {out.device}"
        )
    return out.copy_(result)


functions.replaced[torch.matmul] = functions.replaced[torch.linalg.matmul] = _matmul
