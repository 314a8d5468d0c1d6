"""Random numbers, by position: see graticule.tensor.random. Each draw serves cut tensors and plain ones alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.random import fill_, next_seed
from graticule.tensor.registry import rule

aten = torch.ops.aten
_Function = TypeVar("_Function", bound=Callable[..., Any])

draws: dict[Any, Callable[..., Any]] = {}


def draw(*ops: Any) -> Callable[[_Function], _Function]:
    """Declares a rule that holds for plain tensors too while by_position is open."""

    def register(function: _Function) -> _Function:
        draws.update({op: function for op in ops})
        return rule(*ops)(function)

    return register


def _fill(op: Any, x: Tensor, generator: Any, distribution: str, a: float = 0.0, b: float = 1.0) -> Tensor:
    if isinstance(x, DomainTensor):
        moves.refuse_write(op, x)
        fill_(x._local, x._cut, next_seed(op, x._cut, generator), distribution, a, b)
    else:
        fill_(x, None, next_seed(op, None, generator), distribution, a, b)
    return x


# op: its distribution, what the parameters are without arguments.
_IN_PLACE = {
    aten.uniform_.default: ("uniform", 0.0, 1.0),
    aten.normal_.default: ("normal", 0.0, 1.0),
    aten.bernoulli_.float: ("bernoulli", 0.5, 0.0),
    aten.exponential_.default: ("exponential", 1.0, 0.0),
    aten.cauchy_.default: ("cauchy", 0.0, 1.0),
    aten.log_normal_.default: ("log_normal", 1.0, 2.0),
    aten.geometric_.default: ("geometric", 0.5, 0.0),
}

_PARAMETERS = {op: [a.name for a in op._schema.arguments[1:] if not a.kwarg_only] for op in _IN_PLACE}


@draw(*_IN_PLACE)
def in_place(op: Any, x: Tensor, *parameters: float, generator: Any = None, **named: float) -> Tensor:
    """Fills x. Parameters that torch would refuse it refuses here, on every rank."""
    distribution, *values = _IN_PLACE[op]
    names = _PARAMETERS[op]
    values[: len(parameters)] = parameters
    for name, value in named.items():
        values[names.index(name)] = value
    op(torch.empty(0, dtype=x.dtype), *values[: len(names)])
    if x.is_complex() and distribution == "normal":
        values[1] *= 0.5**0.5  # each part has half the variance
    return _fill(op, x, generator, distribution, *values)


@draw(aten.random_.default, aten.random_.to, getattr(aten.random_, "from"))
def integers(op: Any, x: Tensor, *bounds: int | None, generator: Any = None) -> Tensor:
    """Fills x with whole numbers; see torch.Tensor.random_."""
    op(torch.empty(0, dtype=x.dtype), *bounds)
    low = bounds[0] if len(bounds) == 2 and bounds[0] is not None else 0
    high = bounds[-1] if bounds else None
    if high is None:
        high = _last_integer(x.dtype) + 1
    bits = _fill(op, aten.empty_like.default(x, dtype=torch.int64), generator, "bits")
    numbers = bits._local if isinstance(bits, DomainTensor) else bits
    if high - low < 2**64:
        numbers.bitwise_and_(2**63 - 1)
        if high - low < 2**63:
            numbers.remainder_(high - low)
        numbers.add_(low)
    return aten.copy_.default(x, bits)


def _last_integer(dtype: torch.dtype) -> int:
    if dtype == torch.bool:
        return 1
    return round(2 / torch.finfo(dtype).eps) if dtype.is_floating_point else torch.iinfo(dtype).max


@draw(aten.rand_like.default, aten.rand_like.generator, aten.randn_like.default, aten.randn_like.generator)
def floats_like(op: Any, x: Tensor, *, generator: Any = None, **options: Any) -> Tensor:
    """A new tensor like x."""
    fill = aten.normal_ if "randn" in op._schema.name else aten.uniform_
    return in_place(fill.default, aten.empty_like.default(x, **options), generator=generator)


@draw(
    aten.randint_like.default,
    aten.randint_like.low_dtype,
    aten.randint_like.generator,
    aten.randint_like.low_generator_dtype,
)
def integers_like(op: Any, x: Tensor, *bounds: int, generator: Any = None, **options: Any) -> Tensor:
    """A new tensor of whole numbers like x."""
    low, high = bounds if len(bounds) == 2 else (0, *bounds)
    return integers(
        getattr(aten.random_, "from"), aten.empty_like.default(x, **options), low, high, generator=generator
    )


@draw(aten.bernoulli.p)
def coins_like(op: Any, x: Tensor, p: float, *, generator: Any = None) -> Tensor:
    """A new tensor of zeros and ones."""
    return in_place(aten.bernoulli_.float, aten.empty_like.default(x), p, generator=generator)


@draw(aten.bernoulli.default)
def coins(op: Any, x: Tensor, *, generator: Any = None) -> Tensor:
    """Zeros and ones: x holds the probabilities of ones."""
    _check_within(op, x, 0, 1, "probabilities")
    return aten._to_copy.default(aten.lt.Tensor(_uniform_like(op, x, generator), x), dtype=x.dtype)


@draw(aten.bernoulli_.Tensor)
def coins_in_place(op: Any, x: Tensor, p: Tensor, *, generator: Any = None) -> Tensor:
    """Fills x with zeros and ones: p holds the probabilities of ones."""
    _check_within(op, p, 0, 1, "probabilities")
    return aten.copy_.default(x, aten.lt.Tensor(_uniform_like(op, x, generator), p))


def _uniform_like(op: Any, x: Tensor, generator: Any) -> Tensor:
    return _fill(op, aten.empty_like.default(x, dtype=torch.float64), generator, "uniform")


@draw(aten.normal.Tensor_Tensor, aten.normal.Tensor_float, aten.normal.float_Tensor)
def normal(op: Any, mean: Any, std: Any = 1.0, *, generator: Any = None) -> Tensor:
    """A new tensor of normal numbers of which each has its mean and its deviation."""
    if not isinstance(std, Tensor) and std < 0:
        raise RuntimeError(f"{op}: expected a standard deviation of at least 0, got {std}")
    if isinstance(std, Tensor):
        _check_within(op, std, 0, float("inf"), "standard deviations")
    dtype = mean.dtype if isinstance(mean, Tensor) else std.dtype
    mean, std = (t if isinstance(t, Tensor) else torch.tensor(t, dtype=dtype) for t in (mean, std))
    like = aten._to_copy.default(aten.add.Tensor(mean, std), dtype=dtype)
    numbers = in_place(aten.normal_.default, like, generator=generator)
    return aten._to_copy.default(aten.add.Tensor(mean, aten.mul.Tensor(numbers, std)), dtype=dtype)


def _check_within(op: Any, t: Tensor, least: float, most: float, what: str) -> None:
    """RuntimeError, on every rank, where a value is outside [least, most]; one that is no number is."""
    if t.is_meta or t.numel() == 0 or t.is_complex():
        return
    within = aten.logical_and.default(aten.ge.Scalar(t, least), aten.le.Scalar(t, most))
    if not aten.all.default(within).item():
        raise RuntimeError(f"{op}: expected {what} of at least {least} and at most {most}")


@draw(aten.native_dropout.default)
def dropout(op: Any, x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    """Zeros a part p of x and scales the rest."""
    if train is False or x.numel() == 0:
        return aten.clone.default(x), aten.ones_like.default(x, dtype=torch.bool)
    mask = in_place(aten.bernoulli_.float, aten.empty_like.default(x, dtype=torch.bool), 1 - p)
    scale = 0.0 if p == 1 else 1 / (1 - p)
    return aten.mul.Tensor(x, aten.mul.Scalar(aten._to_copy.default(mask, dtype=x.dtype), scale)), mask


@rule(aten.rrelu.default, aten.rrelu_.default)
def declined(op: Any, *args: Any, **kwargs: Any) -> Any:
    """No pointwise op, though its tag says so: it draws."""
    return NotImplemented


def _new(size: Any, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Tensor:
    return torch.empty(size, dtype=dtype, layout=layout or torch.strided, device=device, pin_memory=bool(pin_memory))


def _from_sizes(fill: Any, count: int, **defaults: Any) -> Callable[..., Tensor]:
    """A draw into a new plain tensor: `count` parameters, then sizes."""

    def make(op: Any, *args: Any, generator: Any = None, **options: Any) -> Tensor:
        *parameters, size = args
        if len(parameters) < count:
            parameters = [0, *parameters]
        given = {**defaults, **{k: v for k, v in options.items() if v is not None}}
        return draws[fill](fill, _new(size, **given), *parameters, generator=generator)

    return make


for _name, _fill_op in (("rand", aten.uniform_.default), ("randn", aten.normal_.default)):
    for _overload in ("default", "generator"):
        draws[getattr(getattr(aten, _name), _overload)] = _from_sizes(_fill_op, 0)
for _overload in ("default", "generator", "low", "low_generator"):
    draws[getattr(aten.randint, _overload)] = _from_sizes(getattr(aten.random_, "from"), 2, dtype=torch.int64)
draws[aten.normal.float_float] = _from_sizes(aten.normal_.default, 2)
