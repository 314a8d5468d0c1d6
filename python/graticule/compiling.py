"""The ops and layers under torch.compile and torch.export.

Ranks must exchange the same things in the same order, whatever their shapes and whatever each of them uses of a result.
Compiled code keeps the exchanges of the traced code, none removed, doubled or moved past another one:

- Every op that communicates has the effect ORDERED. AOTAutograd then hands a token from one such op to the next, a
  chain of its own in the forward and in the backward graph: FX passes, which keep data dependencies, keep their number
  and their order, and what is left of the chain is an output, so that dead code elimination keeps it whole. Tokens
  differ, so that no two ops are merged. The partitioner saves what such an op gives and never computes it again.
- Inductor's scheduler moves kernels too, to save memory. Torch 2.13 states the order of effects under the name of a
  buffer where the scheduler looks for that of an operation, and so loses it. The lowering below states it again.
- A number of rows depends on the rank, which is no argument of an op. Traced code names the rank with the group: code
  that was compiled or exported on one rank is an error on another one, and is no cache entry for it.

A backward that is compiled is run whole, with zeros for the gradient of an output that was not used.
What the traced code of one rank's loss does not depend on has no backward in it: those ranks differ, which is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._higher_order_ops.effects import _register_effectful_op
from torch._library.effects import EffectType
from torch.utils.checkpoint import CheckpointPolicy


def _communicating() -> tuple[str, ...]:
    """The ops that hold messages: those that take a group, with a kernel that is not made of other ops.

    An op that changes its argument can have no effect; sync_domain_gradients, whose it is, is not traced.
    """
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("graticule::")]
    found = []
    for name in names:
        schema = torch._C._get_schema(name, "")
        takes_group = any(argument.name == "group" for argument in schema.arguments)
        composite = torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")
        if takes_group and not composite and not schema.is_mutable:
            found.append(name.removeprefix("graticule::"))
    return tuple(sorted(found))


COMMUNICATING = _communicating()

_Function = TypeVar("_Function", bound=Callable[..., Any])


def at_trace_time(function: _Function) -> _Function:
    """Lets torch.compile call `function` once, while it traces, and take the result for a constant.

    What torch.compiler.assume_constant_result does, without the import of the compiler.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def register_effects() -> None:
    """Declares the ops that communicate. Called once, when the library is loaded."""
    for name in COMMUNICATING:
        _register_effectful_op(getattr(torch.ops.graticule, name).default, EffectType.ORDERED)
    torch.library.register_fake("graticule::check_equal", lambda layer, facts, group: None)


def save_exchanges(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """A policy for torch.utils.checkpoint: what an exchange gives is saved, all else is computed again.

    Give it as context_fn=functools.partial(create_selective_checkpoint_contexts, save_exchanges). A checkpoint in code
    that is compiled needs it: without it an exchange would be done again in the backward, where no token gives it a
    place, and torch ends the compilation with an error about tokens.
    """
    own = getattr(op, "namespace", "") == "graticule"
    return CheckpointPolicy.MUST_SAVE if own else CheckpointPolicy.PREFER_RECOMPUTE


def not_in_compiled_code(name: str) -> None:
    """RuntimeError where `name`, which tells numbers among the ranks, is traced: what they are is seen at each call."""
    if torch.compiler.is_compiling():
        raise RuntimeError(f"{name}: cannot be traced by torch.compile or torch.export; call it outside of their code")


def fixed_shape(x: Tensor) -> Tensor:
    """X itself, and in traced code x with sizes that are numbers: a cut is made for one shape.

    Code for dynamic shapes is compiled again for each shape that comes.
    """
    if not torch.compiler.is_compiling():
        return x
    _order_effects()
    return torch.ops.graticule.fixed_shape(x)


@at_trace_time
def _order_effects() -> None:
    """Registers Inductor's lowering of the ops that communicate, before it is asked for."""
    from torch._inductor.lowering import lowerings

    for name in COMMUNICATING:
        op = getattr(torch.ops.graticule, name).default
        if op not in lowerings:
            lowerings[op] = _ordered_lowering(op)


def _ordered_lowering(op: Any) -> Callable[..., Any]:
    from torch._inductor import ir
    from torch._inductor.virtualized import V
    from torch.utils import _pytree as pytree

    def lower(*args: Any) -> Any:
        previous = V.graph.effectful_ops.get(EffectType.ORDERED)
        begin = len(V.graph.operations)
        # The host takes part in every message; a replayed graph would send none.
        V.graph.disable_cudagraphs_reason = f"{op} communicates"
        result = ir.FallbackKernel.create(op, *args)
        if previous is not None:
            for operation in V.graph.operations[begin:]:
                V.graph.additional_star_deps[operation.get_operation_name()].add(previous.get_name())
        return pytree.tree_map(lambda x: x.wrap_for_lowering() if isinstance(x, ir.IRNode) else x, result)

    return lower
