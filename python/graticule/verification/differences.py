"""How far a cut pass is from the uncut one."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from graticule.domain import Domain
from graticule.tensor import moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.verification.passes import Pass

# Gradients that are zero but for rounding are measured against this part of the largest of their kind.
_FLOOR = 1e-3


@dataclasses.dataclass(frozen=True)
class Difference:
    """The largest error of a tensor, over its largest element, or over `_FLOOR` of the largest one of its kind."""

    kind: str
    name: str
    error: float


def whole_value(t: Tensor) -> Tensor:
    """The tensor on every rank, without a record in a report. All ranks must call."""
    with torch.no_grad():
        return moves.everything(t._local, t._cut) if isinstance(t, DomainTensor) else t.detach()


def error_of(value: Tensor, expected: Tensor, floor: float = 0.0) -> float:
    """Largest error over the largest expected element; infinite where shape, type or non-finite elements differ."""
    if value.shape != expected.shape or value.dtype != expected.dtype:
        return float("inf")
    if expected.numel() == 0:
        return 0.0
    if not (expected.is_floating_point() or expected.is_complex()):
        return 0.0 if torch.equal(value, expected) else float("inf")
    finite = expected.isfinite()
    if not torch.equal(value.isfinite(), finite) or not torch.equal(
        value[~finite].nan_to_num(), expected[~finite].nan_to_num()
    ):
        return float("inf")
    value, expected = value.detach()[finite], expected.detach()[finite]
    if not expected.numel():
        return 0.0
    error = (value - expected).abs().max().item()
    scale = max(expected.abs().max().item(), floor)
    return error / scale if scale else error


def differences(cut: Pass, uncut: Pass, domain: Domain) -> list[Difference]:
    """Of every tensor, the worst of all ranks. All ranks must call."""
    found = {(kind, name): t for kind, name, t in cut.tensors()}
    wanted = {(kind, name): t for kind, name, t in uncut.tensors()}
    floors = {kind: _FLOOR * max(_sizes(uncut, kind), default=0.0) for kind, _ in wanted}
    keys = [*wanted, *(key for key in found if key not in wanted)]
    errors = []
    for key in keys:
        if key not in found or key not in wanted:
            errors.append(float("inf"))
            continue
        errors.append(error_of(whole_value(found[key]), wanted[key], floors[key[0]]))
    return [Difference(*key, error) for key, error in zip(keys, worst(errors, domain), strict=True)]


def worst(errors: list[float], domain: Domain) -> list[float]:
    """Of each number the largest of all ranks. All ranks must call."""
    own = torch.tensor([errors], dtype=torch.float64)
    return moves.everything(own, Cut(domain, 0, tuple(range(domain.size + 1)))).amax(0).tolist()


def _sizes(uncut: Pass, kind: str) -> list[float]:
    return [
        t.abs().max().item()
        for of, _, t in uncut.tensors()
        if of == kind and "gradient" in kind and t.numel() and t.is_floating_point()
    ]
