"""What the ranks must agree on in the call of an op on DomainTensors: its name, and their shapes, dtypes and cuts.

A sum over the ranks has the same number of bytes whatever was summed, so its message carries these facts: another call
on one rank is an error then, not a wrong sum.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from graticule.environment import check_mode
from graticule.tensor.write_counts import count_write, written


@functools.cache
def _is_mutable(op: Any) -> bool:
    return op._schema.is_mutable


class _State(threading.local):
    call: tuple[Any, Any] | None = None
    generator: str | None = None  # in check mode: the default generator's state at the last call


_state = _State()


def run(op: Any, args: Any, kwargs: Any, rule: Callable[..., Any]) -> Any:
    """Calls the rule, within which `described` knows op and arguments. In check mode the ranks compare them first."""
    before = _state.call
    _state.call = (op, args)
    try:
        if check_mode():
            _compare(args)
        result = rule(op, *args, **kwargs)
        if _is_mutable(op):
            for t in _cut_tensors(written(op, args, kwargs)):
                count_write(t)
        return result
    finally:
        _state.call = before


def described(what: str) -> str:
    """`what`, and of which op on which tensors it is."""
    if _state.call is None:
        return what
    op, args = _state.call
    cuts = ", ".join(_facts(t) for t in _cut_tensors(args))
    return f"{what} in {op} of {cuts}"


def _facts(t: Any) -> str:
    cut = t._cut
    # Of integers alone a hash is the same in every process.
    return f"{list(t.shape)} {str(t.dtype)[6:]} cut along {cut.dim} ({hash(tuple(cut.offsets)) & 0xFFFF:04x})"


def _cut_tensors(args: Any) -> Any:
    for argument in args:
        if isinstance(argument, Tensor):
            if hasattr(argument, "_cut"):
                yield argument
        elif isinstance(argument, (list, tuple)):
            yield from _cut_tensors(argument)


def _draws(group: str) -> str:
    """Where torch's default generator has been drawn from since the last call, its state.

    What ranks draw on plain tensors, such as the noise of Dropout2d, they must draw alike. Threads share a generator.
    """
    if group.startswith("graticule_threads:"):
        return ""
    state = torch.default_generator.get_state()
    before, _state.generator = _state.generator, hashlib.sha256(state.numpy().tobytes()).hexdigest()[:8]
    return "" if before in (None, _state.generator) else f", the default generator's state being {_state.generator}"


def _compare(args: Any) -> None:
    first = next(_cut_tensors(args), None)
    if first is not None and first._cut.domain.size > 1:
        group = first._cut.domain.group_name
        torch.ops.graticule.check_equal("a DomainTensor", described("a call") + _draws(group), group)
