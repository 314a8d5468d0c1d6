"""What an op without a rule does: as the ops that it is made of, or uncut on every rank. Never guessed."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.utils import _pytree as pytree

from graticule.tensor import agreed_strides, moves, report
from graticule.tensor.cut import Cut
from graticule.tensor.every_rank import errors_of_every_rank, is_of_every_rank, tell_others
from graticule.tensor.functions import part_laid_out_as_whole
from graticule.tensor.random import noting_draws
from graticule.tensor.registry import Rule
from graticule.tensor.write_counts import written


def with_fallback(op: Any, rule: Rule | None) -> Rule:
    """The rule, or pointwise work by the op's tag; where it declines: the op's parts; where it has none: uncut."""
    from graticule.tensor.rules.pointwise import pointwise

    if rule is None and _is_pointwise(op):
        rule = pointwise

    def run(op: Any, *args: Any, **kwargs: Any) -> Any:
        with report.operation(op):
            try:
                result = NotImplemented if rule is None else rule(op, *args, **kwargs)
                if result is NotImplemented:
                    result = decomposed(op, args, kwargs)
                if result is NotImplemented:
                    result = uncut(op, args, kwargs)
                return agreed_strides.settle(op, args, kwargs, result)
            except Exception as error:
                _tell_ranks_without_rows(args, kwargs, error)
                raise

    return run


def _tell_ranks_without_rows(args: Any, kwargs: Any, error: Exception) -> None:
    """Torch's kernels do not look at the type of nothing: what others cannot do, such a rank would not notice.

    Of errors that a kernel gives of own rows alone. Those of this library, and of ops run uncut, are every rank's.
    """
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or last.tb_frame.f_code is not torch._ops.OpOverload.__call__.__code__ or is_of_every_rank(error):
        return
    for t in pytree.tree_leaves((args, kwargs)):
        cut = getattr(t, "_cut", None)
        if cut is not None and cut.own > 0 and any(begin == end for begin, end in itertools.pairwise(cut.offsets)):
            tell_others(cut.domain, error)
            return


def _is_pointwise(op: Any) -> bool:
    """By its tag, or that of the op that it does in place: masked_fill_ and others have none of their own."""
    if torch.Tag.pointwise in op.tags:
        return True
    name = op._schema.name.rpartition("::")[2]
    if not op._schema.is_mutable or not name.endswith("_") or name.endswith("__"):
        return False
    sibling = getattr(getattr(torch.ops, op.namespace), name[:-1], None)
    overload = getattr(sibling, op._overloadname, None)
    return overload is not None and torch.Tag.pointwise in overload.tags


# Their decompositions read values or make whole tensors where a gather is no worse; that of attention gives the weights
# where the op gives the logarithms of their sums, which backward takes. That of the multilabel margin loss takes other
# labels than the op where a row of them ends early, that of the multi-margin loss has another shape of one sample, and
# those of nll_loss's backward spread what is not a number over all classes.
_KEPT_WHOLE = {
    torch.ops.aten.multilabel_margin_loss_forward.default,
    torch.ops.aten.multi_margin_loss.default,
    torch.ops.aten.nll_loss_backward.default,
    torch.ops.aten.nll_loss2d_backward.default,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
}


_ROUNDED_IN_PARTS = {torch.float16, torch.bfloat16, torch.uint8, torch.int8, torch.int16, torch.int32}


def _round_alike(args: Any, kwargs: Any) -> bool:
    """Whether an op's parts give what it gives: of few digits kernels round once, their parts every time."""
    return not any(isinstance(t, Tensor) and t.dtype in _ROUNDED_IN_PARTS for t in pytree.tree_leaves((args, kwargs)))


def decomposed(op: Any, args: Any, kwargs: Any) -> Any:
    """The op as those that it is made of, or NotImplemented."""
    if op in _KEPT_WHOLE:
        return NotImplemented
    # What torch takes apart before a rule sees it comes whole in inference mode; the table has some with arguments of
    # other kinds.
    result = op.decompose(*args, **kwargs)
    if result is not NotImplemented:
        return result
    parts = decomposition_table.get(op)
    if parts is not None and not op._schema.is_mutable:
        return parts(*args, **kwargs) if _round_alike(args, kwargs) else NotImplemented
    return NotImplemented


def uncut(op: Any, args: Any, kwargs: Any) -> Any:
    """Gathers what is cut, runs the op on every rank, and cuts its result again where that has the rows.

    What the op writes into is written back. A result that would share memory with an argument does not.
    """
    from graticule.tensor.domain_tensor import DomainTensor

    report.refuse_gather(op)
    flat, spec = pytree.tree_flatten((args, kwargs))
    cut_tensors = [t for t in flat if isinstance(t, DomainTensor)]
    whole = {id(t): _laid_out(moves.gather(t._local, t._cut), t.stride()) for t in cut_tensors}
    new_args, new_kwargs = pytree.tree_unflatten([whole.get(id(t), t) for t in flat], spec)
    with errors_of_every_rank(), noting_draws(op, cut_tensors[0]._cut.domain, kwargs.get("generator")):
        result = op(*new_args, **new_kwargs)
    for t in written(op, args, kwargs):
        if not isinstance(t, DomainTensor):
            continue
        values = whole[id(t)]
        if values.shape != t.shape:
            raise RuntimeError(
                f"{op}: rank {t._cut.domain.rank}: expected a DomainTensor of the result's shape {list(values.shape)} "
                f"to write into, got one of {list(t.shape)}: its rows cannot be resized"
            )
        moves.refuse_write(op, t)
        t._local.copy_(t._cut.part_of(values))
    moved = any(a.alias_info is not None and not a.alias_info.is_write for a in op._schema.arguments)
    back = {id(whole[id(t)]): t for t in cut_tensors}

    def cut_again(t: Any) -> Any:
        if not isinstance(t, Tensor):
            return t
        if id(t) in back:
            return back[id(t)]
        for given in cut_tensors:
            cut = matching_cut(given._cut, given.shape, t.shape)
            if cut is not None:
                return part_laid_out_as_whole(t, cut, moved)
        if moved and t.dim() > 0:
            # Cut anyhow, so that a write into it can be refused.
            dim = max(range(t.dim()), key=lambda d: t.shape[d])
            cut = Cut.balanced(cut_tensors[0]._cut.domain, dim, t.shape[dim])
            return part_laid_out_as_whole(t, cut, moved)
        return t

    return pytree.tree_map(cut_again, result)


def _laid_out(whole: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The tensor in the strides that autograd knows: gradients of some ops ask of them how forward saw its argument."""
    if whole.stride() == strides or whole.numel() == 0:
        return whole
    reach = 0
    for step, size in sorted(zip(strides, whole.shape, strict=True)):
        if size > 1 and step <= reach:
            # Values share memory, as those that expand makes.
            return whole
        reach += step * (size - 1)
    return torch.empty_strided(whole.shape, strides, dtype=whole.dtype, device=whole.device).copy_(whole)


def matching_cut(cut: Cut, shape: Any, result: Any) -> Cut | None:
    """The cut of a result that has the rows of an argument: the same size, as far from the last dimension or the first.

    A result without them stays whole, on every rank.
    """
    if cut.size <= 1 or not result:
        return None
    if list(result) == list(shape):
        return cut
    from_end = len(result) - (len(shape) - cut.dim)
    for dim in (from_end, cut.dim):
        if 0 <= dim < len(result) and result[dim] == cut.size:
            return cut.at(dim)
    return None
