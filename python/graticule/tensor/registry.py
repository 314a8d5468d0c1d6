"""Which rule an ATen op has. Rules register themselves here; users add their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Rule = Callable[..., Any]
_Function = TypeVar("_Function", bound=Rule)

_rules: dict[Any, Rule] = {}
_found: dict[Any, Rule] = {}


def rule(*ops: Any) -> Callable[[_Function], _Function]:
    """Declares how ops act on DomainTensors.

        @graticule.rule(torch.ops.aten.relu.default)
        def relu(op, x):
            return graticule.DomainTensor(op(x.local), x.cut)

    A rule takes the op and the op's arguments, DomainTensors among them, below autograd, and gives what the op gives.
    It decides only by what every rank knows: shapes, cuts, options. It may return NotImplemented: the op is then
    decomposed or run uncut.

    Args:
        ops: overloads, as torch.ops.aten.add.Tensor, or packets, as torch.ops.aten.add: then all overloads.

    """

    def register(function: _Function) -> _Function:
        for op in ops:
            overloads = (
                [op] if isinstance(op, torch._ops.OpOverload) else [getattr(op, name) for name in op.overloads()]
            )
            for overload in overloads:
                _rules[overload] = function
        _found.clear()
        return function

    return register


def find_rule(op: Any) -> Rule:
    """What runs `op` on DomainTensors: its rule, or what stands in for one."""
    found = _found.get(op)
    if found is None:
        found = _found[op] = _resolve(op)
    return found


def _resolve(op: Any) -> Rule:
    from graticule.tensor import running

    return running.with_fallback(op, _rules.get(op))
