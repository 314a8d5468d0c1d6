"""A function of cut tensors against the same one of whole tensors: values, gradients, and what is gathered."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import graticule
from graticule import Domain, DomainTensor
from support.device import DEVICE
from support.ranks import balanced, relative, run_ranks

BOUND = 1e-10
RANKS = (1, 2, 3, 4)


@dataclasses.dataclass
class Cut:
    """A tensor to be cut along `dim`."""

    whole: Tensor
    dim: int = -2


def uneven(rows: int, ranks: int) -> list[int]:
    """A cut with shards of very unequal size, some of them empty where rows are few."""
    return [rows * rank * rank // (ranks * ranks) for rank in range(ranks + 1)]


def _needs_gradient(t: Tensor) -> bool:
    return t.is_floating_point() or t.is_complex()


def _tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [t for part in result for t in _tensors(part)] if isinstance(result, (tuple, list)) else []


def _weights(outputs: list[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [
        torch.randn(tuple(t.shape), device="cpu", generator=generator, dtype=torch.float64).to(t.device)
        for t in outputs
    ]


def _differentiate(outputs: list[Tensor], gradients: bool) -> None:
    loss: Any = None
    for t, w in zip(outputs, _weights(outputs), strict=True):
        if t.requires_grad:
            term = (t * w.to(t.dtype)).sum()
            loss = term if loss is None else loss + term
    if gradients and loss is not None:
        loss.backward()


def serial(function: Callable[..., Any], arguments: Sequence[Any], gradients: bool) -> tuple[list[Tensor], list[Any]]:
    """What the function gives of whole tensors: outputs and gradients."""
    given = []
    for argument in arguments:
        whole = argument.whole if isinstance(argument, Cut) else argument
        if isinstance(whole, Tensor):
            whole = whole.detach().to(DEVICE).clone(memory_format=torch.preserve_format)
            whole.requires_grad_(gradients and _needs_gradient(whole))
        given.append(whole)
    outputs = _tensors(function(*given))
    _differentiate(outputs, gradients)
    return [t.detach() for t in outputs], [t.grad if isinstance(t, Tensor) else None for t in given]


def compare(
    function: Callable[..., Any],
    *arguments: Any,
    ranks: Sequence[int] = RANKS,
    cuts: Sequence[Callable[[int, int], list[int]]] = (balanced, uneven),
    gathers: bool = False,
    gradients: bool = True,
    bound: float = BOUND,
) -> bool:
    """Asserts that function(*arguments) gives on every rank, and on every cut, what it gives of whole tensors.

    `arguments`: Cut(tensor, dim) is cut; a plain tensor is replicated; anything else is passed on. Floating tensors get
    gradients, which are compared too: those of cut tensors must be cut alike, those of plain ones plain. `gathers`:
    whether the call may gather whole tensors; it must not otherwise, forward or backward. Returns whether it did.
    """
    expected, expected_gradients = serial(function, arguments, gradients)

    def body(domain: Domain, offsets_of: Callable[[int, int], list[int]]) -> bool:
        given: list[Any] = []
        for argument in arguments:
            if isinstance(argument, Cut):
                dim = argument.dim % argument.whole.dim()
                offsets = offsets_of(argument.whole.shape[dim], domain.size)
                own = argument.whole.narrow(dim, offsets[domain.rank], offsets[domain.rank + 1] - offsets[domain.rank])
                own = own.detach().to(DEVICE).clone(memory_format=torch.preserve_format)
                t: Any = graticule.from_local(own, domain, dim=dim)
                assert list(t.offsets) == list(offsets)
            elif isinstance(argument, Tensor):
                t = argument.detach().to(DEVICE).clone(memory_format=torch.preserve_format)
            else:
                t = argument
            if isinstance(t, Tensor):
                t.requires_grad_(gradients and _needs_gradient(t))
            given.append(t)
        with graticule.report() as report:
            outputs = _tensors(function(*given))
            _differentiate(outputs, gradients)
        where = f"rank {domain.rank} of {domain.size}, {offsets_of.__name__}"
        assert len(outputs) == len(expected), where
        for i, (output, reference) in enumerate(zip(outputs, expected, strict=True)):
            assert output.shape == reference.shape, f"{where}: output {i}: {output.shape}, expected {reference.shape}"
            assert output.dtype == reference.dtype, f"{where}: output {i}"
            value = (output.gather() if isinstance(output, DomainTensor) else output).detach()
            _assert_close(value, reference, bound, f"{where}: output {i}")
        for i, (t, reference) in enumerate(zip(given, expected_gradients, strict=True)):
            if reference is None:
                continue
            assert t.grad is not None, f"{where}: no gradient of argument {i}"
            if isinstance(t, DomainTensor):
                assert isinstance(t.grad, DomainTensor), f"{where}: gradient of argument {i} is not cut"
                assert t.grad.offsets == t.offsets, f"{where}: gradient of argument {i}"
                _assert_close(t.grad.gather(), reference, bound, f"{where}: gradient of argument {i}")
            else:
                assert not isinstance(t.grad, DomainTensor), f"{where}: gradient of plain argument {i} is cut"
                _assert_close(t.grad, reference, bound, f"{where}: gradient of argument {i}")
        assert gathers or not report.gathers, f"{where}: gathered\n{report}"
        return bool(report.gathers)

    gathered = False
    for size in ranks:
        for offsets_of in cuts:
            gathered |= any(run_ranks(size, lambda domain, offsets_of=offsets_of: body(domain, offsets_of)))
    return gathered


def _assert_close(value: Tensor, reference: Tensor, bound: float, what: str) -> None:
    if not reference.is_floating_point():
        assert torch.equal(value, reference), f"{what}: not equal"
        return
    assert torch.equal(value.isnan(), reference.isnan()), f"{what}: not a number elsewhere"
    infinite = reference.isinf()
    assert torch.equal(value[infinite], reference[infinite]), f"{what}: infinite elsewhere"
    finite = reference.isfinite()
    error = relative(value[finite], reference[finite])
    assert error <= bound, f"{what}: relative error {error}"
