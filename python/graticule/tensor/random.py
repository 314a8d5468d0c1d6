"""Random numbers by position: they depend on a seed and on where in the grid they stand, not on how it is cut.

A draw takes one number from torch's default generator, on the CPU: the seed of its Philox generator. So
torch.manual_seed, torch.get_rng_state and activation checkpointing do as ever, and ranks draw alike while their
generators are in step: seed them alike, and draw on all ranks or on none. Numbers differ from those that torch draws
on a plain tensor, unless by_position() is open.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from graticule.domain import Domain
from graticule.environment import check_mode
from graticule.tensor.carried import Carried
from graticule.tensor.cut import Cut

_generator: Carried[torch.Generator | None] = Carried("generator", None)


def next_seed(op: Any, cut: Cut | None, generator: torch.Generator | None = None) -> int:
    """The seed of a draw. Ranks that draw differently raise: at the next message on the CPU, in check mode here."""
    generator = generator or _generator.get()
    device = "cpu" if generator is None else generator.device
    seed = int(torch.empty((), dtype=torch.int64, device=device).random_(generator=generator))
    if cut is not None:
        if check_mode():
            torch.ops.graticule.check_equal(f"{op}: the generators' next number", str(seed), cut.domain.op_group)
        torch.ops.graticule.note_draw(seed, cut.domain.op_group)
    return seed


def _dense_strides(sizes: Sequence[int]) -> list[int]:
    strides = [1] * len(sizes)
    for d in range(len(sizes) - 2, -1, -1):
        strides[d] = strides[d + 1] * max(sizes[d + 1], 1)
    return strides


def fill_(
    local: Tensor,
    cut: Cut | None,
    seed: int,
    distribution: str,
    a: float = 0.0,
    b: float = 1.0,
    whole: Sequence[int] | None = None,
    begins: Sequence[int] | None = None,
) -> None:
    """Draws into a rank's part of a tensor, or into a whole one; see graticule::random_values_.

    `whole`, `begins`: where `local` is a box of the part, the part's sizes and the box's first index in each dimension.
    """
    sizes, offsets = list(whole or local.shape), list(begins or [0] * local.dim())
    if cut is not None:
        local = local.unflatten(cut.dim, (cut.outer, cut.own, cut.inner))
        sizes[cut.dim : cut.dim + 1] = [cut.outer, cut.rows, cut.inner]
        offsets[cut.dim : cut.dim + 1] = [0, cut.begin, 0]
    strides = _dense_strides(sizes)
    if local.numel():
        first = sum(offset * stride for offset, stride in zip(offsets, strides, strict=True))
        torch.ops.graticule.random_values_(local, strides, first, seed, distribution, a, b)


def check_generators(domain: Any, *generators: torch.Generator) -> None:
    """RuntimeError on every rank where ranks' generators are not in step. All ranks must call.

    Args:
        domain: what Domain.of takes.
        generators: those to compare; without any, torch's default ones: the CPU's, and the current device's if in use.

    """
    group = Domain.of(domain).op_group
    torch.ops.graticule.check_equal("check_generators", f"state {_digest(generators):x}", group)


def _digest(generators: Sequence[torch.Generator]) -> int:
    digest = hashlib.sha256()
    for generator in generators or _default_generators():
        digest.update(generator.get_state().numpy().tobytes())
    return int(digest.hexdigest()[:15], 16)


@contextlib.contextmanager
def noting_draws(op: Any, domain: Domain, generator: torch.Generator | None) -> Iterator[None]:
    """Around an op that every rank runs uncut: where it draws from other states, the ranks raise as in next_seed."""
    if domain.size == 1 or torch.Tag.nondeterministic_seeded not in op.tags:
        yield
        return
    generators = [] if generator is None else [generator]
    before = _digest(generators)
    yield
    if _digest(generators) != before:
        torch.ops.graticule.note_draw(before, domain.op_group)


def synchronize_generators(domain: Any, *generators: torch.Generator) -> None:
    """Gives every rank's generators the states of rank 0's. All ranks must call. Arguments as for check_generators."""
    within = Domain.of(domain)
    for generator in generators or _default_generators():
        state = generator.get_state()
        begins, ends = [0] * within.size, [len(state)] * within.size
        own = state if within.rank == 0 else state[:0]
        rest = (begins, ends, "none", 0, -1, True, False, within.group_name)
        # A generator reads memory from its start: a view of what was received will not do.
        generator.set_state(torch.ops.graticule.gather_rows(own, [0, *ends], *rest).clone())


def _default_generators() -> list[torch.Generator]:
    found = [torch.default_generator]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found.append(torch.cuda.default_generators[torch.cuda.current_device()])
    return found


class _ByPosition(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from graticule.tensor.rules.random import draws

        kwargs = kwargs or {}
        if func in draws:
            return draws[func](func, *args, **kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        return func(*args, **kwargs)


@contextlib.contextmanager
def by_position(generator: torch.Generator | None = None) -> Iterator[None]:
    """Lets plain tensors too draw their random numbers by position, on this thread.

    An uncut model then draws what the cut one draws from the same state of torch's default generator; what has no
    draw by position (multinomial, poisson, randperm...) is drawn by torch on both.

    Args:
        generator: gives the seeds, of cut tensors' draws too, in place of torch's default one.

    """
    before = _generator.get()
    _generator.set(generator or before)
    try:
        with contextlib.ExitStack() as stack:
            if torch.cuda.is_available():
                # Fused attention draws its dropout by itself.
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(_ByPosition())
            yield
    finally:
        _generator.set(before)
