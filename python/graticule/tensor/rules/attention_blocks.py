"""Attention of some queries to some keys: a block of the matrix of weights, on local tensors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from graticule.tensor.cut import Cut
from graticule.tensor.random import fill_
from graticule.tensor.rules.merging import wide

aten = torch.ops.aten

# Elements of the matrix that are made at once.
CHUNK = 2**22


@dataclasses.dataclass(frozen=True)
class Options:
    """What holds for the whole matrix, of shape (batches..., rows, columns)."""

    shape: tuple[int, ...]
    scale: float
    causal: bool = False
    dropout_p: float = 0.0
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a block stands in the matrix: its first row and column, and how its batches are cut, if they are."""

    row: int = 0
    column: int = 0
    batches: Cut | None = None


def merged(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Of two sets of keys: their outputs, and the logarithms of their weights' sums, as of one set."""
    total = torch.logaddexp(a[1], b[1])
    return a[0] * share(a[1], total) + b[0] * share(b[1], total), total


def share(part: Tensor, total: Tensor) -> Tensor:
    """Part of the weights that some keys have; 0 where all are masked."""
    return torch.exp(part - total.masked_fill(total == -math.inf, 0)).unsqueeze(-1)


def forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, o: Options, at: Place) -> tuple[Tensor, Tensor]:
    """The output, and the logarithm of the sum of each query's weights: -inf where all keys are masked."""
    inner = wide(q.dtype)
    if q.numel() == 0 or k.numel() == 0:
        return q.new_zeros((*q.shape[:-1], v.shape[-1])), q.new_full(q.shape[:-1], -math.inf, dtype=inner)
    k, v = _for_heads(k, q), _for_heads(v, q)
    if _is_fused(q, k, v, bias, o, at):
        mask = None if bias is None else _four_dimensional(bias).to(q.dtype)
        return aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, o.causal, attn_mask=mask, scale=o.scale)
    outputs, sums = [], []
    wide_k, wide_v = k.to(inner), v.to(inner)
    for begin, end in _chunks(q, k):
        scores = _scores(q, wide_k, bias, begin, end, o, at)
        total = torch.logsumexp(scores, -1)
        weights = torch.exp(scores.sub_(total.masked_fill(total == -math.inf, 0).unsqueeze(-1)))
        if o.dropout_p:
            weights.mul_(_kept(weights, begin, o, at))
        outputs.append(weights @ wide_v)
        sums.append(total)
    return torch.cat(outputs, -2).to(q.dtype), torch.cat(sums, -1)


@dataclasses.dataclass
class Gradients:
    """Of a block's inputs; in the type that sums are made in."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None

    @staticmethod
    def zeros(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Gradients:
        """`bias`: where it needs a gradient."""
        inner = wide(q.dtype)
        made = [torch.zeros_like(t, dtype=inner) for t in (q, k, v)]
        return Gradients(made[0], made[1], made[2], None if bias is None else torch.zeros_like(bias, dtype=inner))


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    total: Tensor,
    bias_needs: bool,
    o: Options,
    at: Place,
) -> Gradients:
    """`out`, `total`: of all keys, not of the block's alone."""
    inner = wide(q.dtype)
    result = Gradients.zeros(q, k, v, bias if bias_needs else None)
    if q.numel() == 0 or k.numel() == 0:
        return result
    heads_k, heads_v = _for_heads(k, q), _for_heads(v, q)
    if result.bias is None and _is_fused(q, heads_k, heads_v, bias, o, at):
        mask = None if bias is None else _four_dimensional(bias).to(q.dtype)
        # The kernel takes the features of these two, too, for neighbours in memory, and does not look.
        grad, out = (t if t.stride(-1) == 1 else t.contiguous() for t in (grad, out))
        q_grad, k_grad, v_grad = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, heads_k, heads_v, out, total, 0.0, o.causal, attn_mask=mask, scale=o.scale
        )
        return Gradients(q_grad.to(inner), _of_heads(k_grad.to(inner), k), _of_heads(v_grad.to(inner), v), None)
    wide_k, wide_v = heads_k.to(inner), heads_v.to(inner)
    k_grad, v_grad = torch.zeros_like(wide_k), torch.zeros_like(wide_v)
    for begin, end in _chunks(q, k):
        size = end - begin
        g, own_q = grad.narrow(-2, begin, size).to(inner), q.narrow(-2, begin, size).to(inner)
        scores = _scores(q, wide_k, bias, begin, end, o, at)
        own_total = total.narrow(-1, begin, size).unsqueeze(-1)
        weights = torch.exp(scores.sub_(own_total.masked_fill(own_total == -math.inf, 0)))
        kept = _kept(weights, begin, o, at) if o.dropout_p else None
        v_grad += (weights if kept is None else weights * kept).transpose(-2, -1) @ g
        of_weights = g @ wide_v.transpose(-2, -1)
        if kept is not None:
            of_weights.mul_(kept)
        of_weights.sub_((g * out.narrow(-2, begin, size)).sum(-1, keepdim=True))
        of_scores = weights.mul_(of_weights)
        result.q.narrow(-2, begin, size).copy_((of_scores @ wide_k).mul_(o.scale))
        k_grad += (of_scores.transpose(-2, -1) @ own_q).mul_(o.scale)
        if result.bias is not None:
            rows = _rows_of(result.bias, begin, size, q)
            rows += of_scores.sum_to_size(rows.shape)
    result.k, result.v = _of_heads(k_grad, k), _of_heads(v_grad, v)
    return result


def _is_fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, o: Options, at: Place) -> bool:
    """Whether ATen's kernel can do the block. Its sum of weights is none where all keys of a block are masked."""
    return (
        q.device.type == "cpu"
        and not o.dropout_p
        and fits_a_kernel(q, k, v)
        and (bias is None or k.shape[-2] == o.shape[-1])
        and (not o.causal or at.row == at.column == 0)
    )


def fits_a_kernel(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether torch's fused kernels take tensors of such sizes and strides."""
    return q.dim() == 4 and q.shape[-1] == v.shape[-1] and all(t.stride(-1) == 1 for t in (q, k, v))


def _four_dimensional(bias: Tensor) -> Tensor:
    return bias[(None,) * (4 - bias.dim())]


def _for_heads(t: Tensor, q: Tensor) -> Tensor:
    """Keys or values, repeated where several heads of the queries share one of theirs."""
    if t.shape[:-2] == q.shape[:-2]:
        return t
    return t.repeat_interleave(q.shape[-3] // t.shape[-3], -3)


def _of_heads(gradient: Tensor, t: Tensor) -> Tensor:
    """The gradient of what _for_heads took."""
    if gradient.shape == t.shape:
        return gradient
    return gradient.unflatten(-3, (t.shape[-3], -1)).sum(-3)


def _chunks(q: Tensor, k: Tensor) -> Iterator[tuple[int, int]]:
    rows = q.shape[-2]
    step = max(1, CHUNK // (math.prod(q.shape[:-2]) * k.shape[-2]))
    for begin in range(0, rows, step):
        yield begin, min(begin + step, rows)


def _rows_of(bias: Tensor, begin: int, size: int, q: Tensor) -> Tensor:
    """A bias's rows; those that hold for all queries are all of them."""
    return bias.narrow(-2, begin, size) if bias.dim() > 1 and bias.shape[-2] == q.shape[-2] else bias


def _scores(q: Tensor, k: Tensor, bias: Tensor | None, begin: int, end: int, o: Options, at: Place) -> Tensor:
    scores = (q.narrow(-2, begin, end - begin).to(k.dtype) * o.scale) @ k.transpose(-2, -1)
    if bias is not None:
        scores = scores.add_(_rows_of(bias, begin, end - begin, q))
    if o.causal:
        row = torch.arange(at.row + begin, at.row + end, device=q.device).unsqueeze(-1)
        column = torch.arange(at.column, at.column + k.shape[-2], device=q.device)
        scores = scores.masked_fill_(column > row, -math.inf)
    return scores


def _kept(weights: Tensor, begin: int, o: Options, at: Place) -> Tensor:
    """By what dropout multiplies these weights."""
    kept = torch.empty(weights.shape, dtype=weights.dtype, device=weights.device)
    begins = [0] * (len(o.shape) - 2) + [at.row + begin, at.column]
    fill_(kept, at.batches, o.seed, "bernoulli", 1 - o.dropout_p, whole=o.shape, begins=begins)
    return kept.mul_(0.0 if o.dropout_p == 1 else 1 / (1 - o.dropout_p))
