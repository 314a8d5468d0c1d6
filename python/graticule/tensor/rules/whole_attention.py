"""Above autograd: scaled_dot_product_attention is caught before it comes apart, in nn.MultiheadAttention too."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from graticule.tensor import functions
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.rules.attention_layout import is_supported

aten = torch.ops.aten


def whole_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """scaled_dot_product_attention, as one op; shapes that broadcast come apart into their products."""
    given = [query, key, value, *([] if attn_mask is None else [attn_mask])]
    cut = [t for t in given if isinstance(t, DomainTensor)]
    heads_agree = enable_gqa or query.shape[:-2] == key.shape[:-2]
    if not cut or not heads_agree or not is_supported(query, key, value, attn_mask):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if attn_mask is not None and is_causal:
        rank = cut[0]._cut.domain.rank
        raise RuntimeError(f"scaled_dot_product_attention: rank {rank}: expected attn_mask or is_causal, got both")
    query, key, value = (_autocast(t) for t in (query, key, value))
    _check_types(query, key, value, attn_mask, dropout_p, cut[0]._cut.domain.rank)
    if attn_mask is not None:
        attn_mask = _bias(attn_mask, query.dtype) if attn_mask.dtype == torch.bool else _autocast(attn_mask)
    whole = aten._scaled_dot_product_fused_attention_overrideable
    return whole(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)[0]


def _check_types(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_p: float, rank: int) -> None:
    """RuntimeError for what torch refuses too."""
    where = f"scaled_dot_product_attention: rank {rank}"
    if not 0 <= dropout_p <= 1:
        raise RuntimeError(f"{where}: expected a dropout_p from 0 to 1, got {dropout_p}")
    types = [t.dtype for t in (query, key, value)]
    if len(set(types)) > 1 or not query.is_floating_point():
        raise RuntimeError(f"{where}: expected query, key and value of one floating-point type, got {types}")
    if mask is not None and mask.dtype not in (torch.bool, torch.float32, query.dtype):
        raise RuntimeError(f"{where}: expected attn_mask to be bool, float32 or {query.dtype}, got {mask.dtype}")


def _bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask.logical_not(), -math.inf)


def _autocast(t: Tensor) -> Tensor:
    device = t.device.type
    # plan()'s tensors are on a device that knows no autocast.
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return t
    if not t.is_floating_point() or t.dtype == torch.float64:
        return t
    return t.to(torch.get_autocast_dtype(device))


def _multi_head_attention() -> Callable[..., Any]:
    """torch's own, which calls whole_attention."""  # noqa: D403
    given = F.multi_head_attention_forward
    names = {**vars(F), "scaled_dot_product_attention": whole_attention}
    made = FunctionType(given.__code__, names, given.__name__, given.__defaults__, given.__closure__)
    made.__kwdefaults__ = given.__kwdefaults__
    return made


functions.replaced[F.scaled_dot_product_attention] = whole_attention
functions.replaced[F.multi_head_attention_forward] = _multi_head_attention()
