"""The sum of parameter gradients over a domain."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from graticule.compiling import not_in_compiled_code
from graticule.domain import Domain
from graticule.domain_parallel.manager import active_domain

_BUCKET_BYTES = 25 << 20


def sync_domain_gradients(model: nn.Module, manager: Any = None) -> None:
    """Sums every parameter's gradient over the domain, in place. Call once a step, after the last backward.

    A cut layer leaves in `.grad` this rank's part of the gradient. Every rank of the domain must call with the same
    model. Parameters that require no gradient take no part; one that has a gradient on some ranks only counts as zero
    on
    the others. Half-precision gradients are added in float32.
    """
    domain = active_domain(manager)
    if domain is None:
        return
    not_in_compiled_code("sync_domain_gradients")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        return
    for p in parameters:
        if p.grad is not None and p.grad.layout != torch.strided:
            raise ValueError(
                f"sync_domain_gradients: expected dense gradients, got a {p.grad.layout} one of shape {tuple(p.shape)} "
                f"(rank {domain.rank} of {domain.size})"
            )
    present = torch.tensor([float(p.grad is not None) for p in parameters], dtype=torch.float64)
    device = parameters[0].device
    # The parameters themselves are part of the message's name: ranks with other ones must not add them up.
    facts = zlib.crc32(repr([(tuple(p.shape), p.dtype) for p in parameters]).encode())
    layer = f"sync_domain_gradients of {len(parameters)} parameters ({facts:08x})"
    counts = torch.ops.graticule.all_reduce_sum_(present.to(device), domain.group_name, layer).tolist()
    wanted = [p for p, count in zip(parameters, counts, strict=True) if count > 0]
    with torch.no_grad():
        for bucket in _buckets(wanted):
            _sync_bucket(bucket, domain)


def _sum_type(p: Tensor) -> torch.dtype:
    return torch.float64 if p.dtype in (torch.float64, torch.complex128) else torch.float32


def _as_real(t: Tensor) -> Tensor:
    return torch.view_as_real(t) if t.is_complex() else t


def _buckets(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Groups of one device and sum type, of some 25 MB each, in an order that every rank shares."""
    kinds = sorted({(str(p.device), str(_sum_type(p))) for p in parameters})
    for kind in kinds:
        bucket: list[nn.Parameter] = []
        filled = 0
        for p in parameters:
            if (str(p.device), str(_sum_type(p))) != kind:
                continue
            bucket.append(p)
            filled += _as_real(p).numel() * _sum_type(p).itemsize
            if filled >= _BUCKET_BYTES:
                yield bucket
                bucket, filled = [], 0
        if bucket:
            yield bucket


def _sync_bucket(bucket: list[nn.Parameter], domain: Domain) -> None:
    dtype = _sum_type(bucket[0])
    parts = [_as_real(torch.zeros_like(p) if p.grad is None else p.grad.resolve_conj()).to(dtype) for p in bucket]
    flat = torch.cat([part.reshape(-1) for part in parts])
    torch.ops.graticule.all_reduce_sum_(flat, domain.group_name, "sync_domain_gradients")
    for p, part, total in zip(bucket, parts, flat.split([part.numel() for part in parts]), strict=True):
        if p.grad is None:
            p.grad = torch.empty_like(p)
        if p.grad.is_conj():
            p.grad = p.grad.resolve_conj()
        _as_real(p.grad).copy_(total.view(part.shape))
