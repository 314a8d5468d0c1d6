"""DomainTensor: a tensor of global shape of which every rank of a domain holds its own rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from graticule.domain import Domain
from graticule.tensor import functions, inference
from graticule.tensor.call_facts import run
from graticule.tensor.cut import Cut
from graticule.tensor.differentiating import backward_passes
from graticule.tensor.eagerly import eagerly
from graticule.tensor.layout import strides_in_order
from graticule.tensor.registry import find_rule
from graticule.tensor.replicated_view import mark_views, note_views, refuse_misused_copies, refuse_out_of_date
from graticule.tensor.write_through import write_through


class DomainTensor(Tensor):
    """A tensor of the whole grid's shape whose rows along one dimension lie on a domain's ranks.

    Made by graticule.shard and graticule.from_local. Every op on it, forward or backward, is mapped by a rule to work
    on the rank's own rows and whatever must travel; all ranks must call the same ops in the same order. A plain tensor
    beside it is a replicated value, the same on every rank.
    """

    _has_whole_shape = True  # for graticule.own_rows
    _local: Tensor
    _cut: Cut
    _moved: bool
    _strides_are_guessed: bool

    @staticmethod
    def __new__(  # noqa: D102
        cls: type[DomainTensor],
        local: Tensor,
        cut: Cut,
        moved: bool = False,
        strides: tuple[int, ...] | None = None,
    ) -> DomainTensor:
        shape = tuple(cut.global_shape(local.shape))
        result = Tensor._make_wrapper_subclass(
            cls,
            shape,
            strides=strides or strides_in_order(local.stride(), tuple(local.shape), shape),
            dtype=local.dtype,
            device=local.device,
            layout=local.layout,
        )
        result._local = local
        result._cut = cut
        result._moved = moved
        # By one row or none a rank does not see the order in memory that the others see by theirs.
        result._strides_are_guessed = strides is None and cut.domain.size > 1 and cut.least_size < 2
        return result

    def __init__(
        self,
        local: Tensor,
        cut: Cut,
        moved: bool = False,
        strides: tuple[int, ...] | None = None,
    ) -> None:
        """See __new__. `moved`: a result of a view op that had to move rows, and so shares memory with nothing.

        `strides`: those that the whole tensor would have, for views; dense ones in the order of the local rows'
        otherwise. By them torch decides whether a reshape is a view, and so what a write into it changes.
        """

    @property
    def local(self) -> Tensor:
        """This rank's own rows, a plain tensor; differentiable."""
        refuse_out_of_date("local", self)
        return functions.to_local(self)

    @property
    def domain(self) -> Domain:
        """The ranks that hold the tensor."""
        return self._cut.domain

    @property
    def cut(self) -> Cut:
        """Which rows are whose: what a rule gives a result of the same rows."""
        return self._cut

    @property
    def cut_dim(self) -> int:
        """The cut dimension, counted from 0."""
        return self._cut.dim

    @property
    def offsets(self) -> tuple[int, ...]:
        """N + 1 offsets along the cut dimension: rank r owns the indices [offsets[r], offsets[r + 1]).

        ValueError where ranks own more than one interval: a cut dimension merged with others by a reshape.
        """
        return self._cut.flat().offsets

    def gather(self, *args: Any, **kwargs: Any) -> Tensor:
        """The whole tensor, on every rank, in its memory format; differentiable. All ranks must call.

        With arguments it is torch.gather.
        """
        if args or kwargs:
            return torch.gather(self, *args, **kwargs)
        refuse_out_of_date("gather", self)
        return functions.gather(self)

    @classmethod
    @eagerly
    def __torch_function__(  # noqa: D102
        cls, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in backward_passes:
            return backward_passes[func](*args, **kwargs)
        if write_through(func, args, kwargs) is not None:
            origin, index = args[0]._taken_from
            return origin[index]
        with torch._C.DisableTorchFunctionSubclass():
            refuse_misused_copies(func, args, kwargs, cls)
            given = args or tuple(kwargs.values())
            return mark_views(func, functions.call(func, args, kwargs), cls, given)

    @classmethod
    @eagerly
    def __torch_dispatch__(  # type: ignore[override]  # noqa: D102
        cls, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        # A plain loss begins a backward pass with torch functions on: what an op is made of is no business of theirs.
        with torch._C.DisableTorchFunctionSubclass(), inference.as_autograd_expects(func, args):
            result = run(func, args, kwargs or {}, find_rule(func))
            if torch.is_inference_mode_enabled():
                note_views(func, args, result, cls)
            return result

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        with torch._C.DisableTorchFunctionSubclass():
            cut = self._cut
            where = f"rank {cut.domain.rank} of {cut.domain.size} has rows [{cut.begin}, {cut.begin + cut.own})"
            grad = f", grad_fn=<{self.grad_fn.name()}>" if self.grad_fn is not None else ""
            grad = ", requires_grad=True" if self.requires_grad and not grad else grad
            return f"DomainTensor(shape={list(self.shape)}, dim {cut.dim} cut: {where}{grad},\n{self._local})"

    def numpy(self, *, force: bool = False) -> Any:
        """Refused: an array has no cut."""
        raise TypeError(
            f"numpy: rank {self._cut.domain.rank}: expected a plain tensor, got a DomainTensor of shape "
            f"{list(self.shape)}; take .local for this rank's rows, or .gather() on every rank for the whole"
        )

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        """Refused, as numpy is."""
        return self.numpy()

    def apply_(self, callable: Any) -> Any:
        """Refused: a function of Python on values that other ranks have."""
        raise TypeError(
            f"apply_: rank {self._cut.domain.rank}: a DomainTensor's values are changed by torch's functions"
        )

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: an array has no cut."""
        return self.numpy()

    def tolist(self) -> Any:
        """The whole as lists. All ranks must call."""
        return self.gather().tolist()

    def __copy__(self) -> DomainTensor:
        return self.detach().requires_grad_(self.requires_grad)  # type: ignore[return-value]

    def __deepcopy__(self, memo: dict[int, Any]) -> DomainTensor:
        with torch._C.DisableTorchFunctionSubclass():
            if not self.is_leaf:
                raise RuntimeError("only a DomainTensor made by the user can be copied deeply; detach() this one first")
            if id(self) in memo:
                return memo[id(self)]
            # By the storage, which views share in the copy as they do here.
            copy = DomainTensor(deepcopy(self._local.detach(), memo), self._cut)
            memo[id(self)] = copy
        if getattr(self, "_is_param", False):
            copy._is_param = True
        if self.requires_grad:
            copy.requires_grad_()
        if self.is_leaf and self.grad is not None:
            copy.grad = deepcopy(self.grad, memo)
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError(
            "a DomainTensor belongs to the processes of its domain and cannot be pickled or saved: "
            "save x.gather() or x.local"
        )
