"""The sum of parameter gradients over a domain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

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
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        return
    present = torch.tensor([float(p.grad is not None) for p in parameters], dtype=torch.float64)
    device = parameters[0].device
    counts = torch.ops.graticule.all_reduce_sum_(present.to(device), domain.group_name).tolist()
    wanted = [p for p, count in zip(parameters, counts, strict=True) if count > 0]
    with torch.no_grad():
        for bucket in _buckets(wanted):
            _sync_bucket(bucket, domain)


def _sum_type(p: Tensor) -> torch.dtype:
    return torch.float64 if p.dtype == torch.float64 else torch.float32


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
            filled += p.numel() * _sum_type(p).itemsize
            if filled >= _BUCKET_BYTES:
                yield bucket
                bucket, filled = [], 0
        if bucket:
            yield bucket


def _sync_bucket(bucket: list[nn.Parameter], domain: Domain) -> None:
    dtype = _sum_type(bucket[0])
    parts = [torch.zeros_like(p, dtype=dtype) if p.grad is None else p.grad.to(dtype) for p in bucket]
    flat = torch.cat([part.reshape(-1) for part in parts])
    torch.ops.graticule.all_reduce_sum_(flat, domain.group_name)
    for p, total in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
        if p.grad is None:
            p.grad = torch.empty_like(p)
        p.grad.copy_(total.view(p.shape))
