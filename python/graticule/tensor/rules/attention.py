"""Attention, whole, and its backward pass: what whole_attention makes of scaled_dot_product_attention.

Cut along batches or heads: each rank makes its own. Queries and keys cut along their tokens: re-cut to heads or batches
where these can be shared evenly, else keys and values go round the ranks, and the outputs for each rank's keys are
merged by the sums of their weights. No rank makes more of the matrix of weights than its own rows, a few at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.random import next_seed
from graticule.tensor.registry import rule
from graticule.tensor.rules import attention_ranks as ranks
from graticule.tensor.rules.attention_blocks import Options, fits_a_kernel
from graticule.tensor.rules.attention_layout import Layout, is_supported, layout_of
from graticule.tensor.rules.contraction import part
from graticule.tensor.rules.support import whole

aten = torch.ops.aten


@rule(aten._scaled_dot_product_fused_attention_overrideable.default)
def attention(
    op: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """Attention; the second result holds the logarithms of the sums of weights."""
    if not is_supported(q, k, v, bias):
        return NotImplemented
    layout = layout_of(q, k, v, bias)
    seed = 0
    if 0 < dropout_p < 1 and q.numel() and k.numel():
        seed = next_seed(op, layout.queries or layout.keys)
    options = _options(q, k, scale, is_causal, dropout_p, seed)
    out, total = ranks.forward(layout, *_own(layout, q, k, v, bias), options)
    empty = torch.empty(0, dtype=torch.int64)
    rest = (empty, empty, q.shape[-2], k.shape[-2], torch.tensor(seed), empty, empty)
    lies_by_tokens = dropout_p == 0 and _has_a_kernel(q, k, v, bias)
    if layout.queries is None:
        return (_tokens_before_heads(out) if lies_by_tokens else out, total, *rest)
    cut = layout.queries
    if isinstance(q, DomainTensor) and q._cut.dim < q.dim() - 1 and q._cut != cut:
        out, cut = moves.recut(out, cut, q._cut), q._cut
    result = _by_tokens(out, cut) if lies_by_tokens else DomainTensor(out, cut)
    return (result, DomainTensor(total, layout.queries), *rest)


@rule(aten._scaled_dot_product_fused_attention_overrideable_backward.default)
def attention_backward(
    op: Any,
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    mask: list[bool],
    out: Tensor,
    total: Tensor,
    cum_seq_q: Tensor,
    cum_seq_k: Tensor,
    max_q: int,
    max_k: int,
    dropout_p: float,
    is_causal: bool,
    philox_seed: Tensor,
    philox_offset: Tensor,
    *,
    scale: float | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients: cut like what they belong to, or whole."""
    layout = layout_of(q, k, v, bias)
    options = _options(q, k, scale, is_causal, dropout_p, int(philox_seed))
    own_grad, own_out, own_total = (_by(t, layout.queries) for t in (grad, out, total))
    bias_needs = bias is not None and mask[3]
    own = _own(layout, q, k, v, bias)
    made = ranks.backward(layout, own_grad, *own, own_out, own_total, bias_needs, options)
    return (
        _returned(made.q, layout.queries, layout, q),
        _returned(made.k, layout.keys, layout, k),
        _returned(made.v, layout.keys, layout, v),
        None if bias is None or made.bias is None else _returned(made.bias, _bias_cut(bias, layout, q), layout, bias),
    )


@rule(aten._scaled_dot_product_flash_attention_for_cpu.default)
def attention_for_cpu(
    op: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> Any:
    """What torch's own functions call, unseen from above autograd."""
    result = attention(op, q, k, v, attn_mask, dropout_p, is_causal, scale=scale)
    return result if result is NotImplemented else result[:2]


@rule(aten._scaled_dot_product_flash_attention_for_cpu_backward.default)
def attention_for_cpu_backward(
    op: Any,
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    total: Tensor,
    dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of queries, keys and values."""
    none = torch.tensor(0)
    rest = (none, none, 0, 0, dropout_p, is_causal, none, none)
    return attention_backward(op, grad, q, k, v, attn_mask, [True] * 3 + [False], out, total, *rest, scale=scale)[:3]


@rule(aten._scaled_dot_product_flash_attention.default)
def flash_attention(op: Any, q: Tensor, k: Tensor, v: Tensor, *options: Any, **named: Any) -> Any:
    """What torch's own functions call for a GPU's tensors, in half types: so do the next three."""
    return attention(op, q, k, v, None, *options, **named)


@rule(aten._scaled_dot_product_flash_attention_backward.default)
def flash_attention_backward(
    op: Any, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, total: Tensor, *rest: Any,
    scale: float | None = None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients of queries, keys and values."""
    return attention_backward(op, grad, q, k, v, None, [True] * 3 + [False], out, total, *rest, scale=scale)[:3]


@rule(aten._scaled_dot_product_cudnn_attention.default)
def cudnn_attention(
    op: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, compute_log_sumexp: bool, *options: Any, **named: Any
) -> Any:
    """With a bias that needs no gradient."""
    return attention(op, q, k, v, bias, *options, **named)


@rule(aten._scaled_dot_product_cudnn_attention_backward.default)
def cudnn_attention_backward(
    op: Any,
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    total: Tensor,
    philox_seed: Tensor,
    philox_offset: Tensor,
    bias: Tensor | None,
    cum_seq_q: Tensor,
    cum_seq_k: Tensor,
    *rest: Any,
    scale: float | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of queries, keys and values."""
    rest = (cum_seq_q, cum_seq_k, *rest, philox_seed, philox_offset)
    return attention_backward(op, grad, q, k, v, bias, [True] * 3 + [False], out, total, *rest, scale=scale)[:3]


@rule(aten._scaled_dot_product_efficient_attention.default)
def efficient_attention(
    op: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, compute_log_sumexp: bool, *options: Any, **named: Any
) -> Any:
    """What torch's own functions call for a GPU's tensors, with a bias that may need a gradient."""
    result = attention(op, q, k, v, bias, *options, **named)
    return result if result is NotImplemented else (result[0], result[1], result[6], result[7])


@rule(aten._scaled_dot_product_efficient_attention_backward.default)
def efficient_attention_backward(
    op: Any,
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    total: Tensor,
    philox_seed: Tensor,
    philox_offset: Tensor,
    dropout_p: float,
    mask: list[bool],
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of queries, keys, values and the bias."""
    none = torch.tensor(0)
    rest = (none, none, 0, 0, dropout_p, is_causal, philox_seed, philox_offset)
    return attention_backward(op, grad, q, k, v, bias, mask, out, total, *rest, scale=scale)


def _options(q: Tensor, k: Tensor, scale: float | None, causal: bool, dropout_p: float, seed: int) -> Options:
    matrix = (*q.shape[:-1], k.shape[-2])
    return Options(matrix, q.shape[-1] ** -0.5 if scale is None else scale, causal, dropout_p, seed)


def _has_a_kernel(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> bool:
    """Whether torch has one for the uncut call, and so no product of matrices, where there is no dropout."""
    return fits_a_kernel(q, k, v) and q.shape[:-2] == k.shape[:-2] and (bias is None or not bias.requires_grad)


def _tokens_before_heads(out: Tensor) -> Tensor:
    """As such kernels lay it out, (batches, tokens, heads, features): models take a view of it by tokens."""
    return out.transpose(1, 2).contiguous().transpose(1, 2)


def _by_tokens(out: Tensor, cut: Cut) -> DomainTensor:
    _, heads, tokens, features = cut.global_shape(out.shape)
    strides = (tokens * heads * features, features, heads * features, 1)
    return DomainTensor(_tokens_before_heads(out), cut, strides=strides)


def _by(t: Tensor, cut: Cut | None) -> Tensor:
    return whole(t) if cut is None else part(t, cut)


def _own(
    layout: Layout, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """What this rank works on."""
    own_bias = None
    if bias is not None:
        cut = _bias_cut(bias, layout, q)
        own_bias = whole(bias) if cut is None else part(bias, cut)
    return _by(q, layout.queries), _by(k, layout.keys), _by(v, layout.keys), own_bias


def _bias_cut(bias: Tensor, layout: Layout, q: Tensor) -> Cut | None:
    """The cut of a bias that has an element for each of the rows, or keys, that the ranks share."""
    shared = layout.queries or layout.keys.at(q.dim() - 1)  # type: ignore[union-attr]
    dim = shared.dim - (q.dim() - bias.dim())
    return shared.at(dim) if dim >= 0 and bias.shape[dim] == shared.size else None


def _returned(gradient: Tensor, cut: Cut | None, layout: Layout, given: Tensor) -> Tensor:
    """By the cut of what it belongs to; where every rank has that whole, and made a part of the sum: the sum."""
    if cut is None:
        gradient = moves.reduce_sum(gradient, layout.domain)
    gradient = gradient.to(given.dtype)
    if isinstance(given, DomainTensor):
        own = given._cut
        local = own.part_of(gradient).contiguous() if cut is None else moves.recut(gradient, cut, own)
        return DomainTensor(local, own)
    return gradient if cut is None else moves.replicate(gradient, cut)
