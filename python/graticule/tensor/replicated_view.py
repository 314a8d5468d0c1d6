"""Views of a DomainTensor that every rank has whole, such as a row of the cut dimension."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graticule.tensor import functions

if TYPE_CHECKING:
    from graticule.tensor.domain_tensor import DomainTensor


class ReplicatedView(Tensor):
    """A plain tensor in all but this: it is a copy of what should be a view, so nothing may be written into it.

    What is made of it is plain again, but for its views. Reading it after a write into the DomainTensor is refused too:
    it would show old values.
    """

    _origin: DomainTensor
    _version_of_origin: int

    @classmethod
    def __torch_function__(  # noqa: D102
        cls, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            given = [t for t in functions.tensors((args, kwargs)) if isinstance(t, ReplicatedView)]
            if getattr(func, "__name__", "") == "__get__":
                return func(*args, **kwargs)
            written = functions.targets(func, args, kwargs)
            for t in given:
                t._check(func, any(t is target for target in written))
            result = functions.call(func, args, kwargs)
            for t in functions.tensors(result):
                for view in given:
                    if type(t) is Tensor and _shares_memory(t, view):
                        # In a container too: its class alone changes.
                        t.__class__ = ReplicatedView
                        t._origin, t._version_of_origin = view._origin, view._version_of_origin  # type: ignore
            return result

    def _check(self, func: Any, written: bool) -> None:
        rank = self._origin._cut.domain.rank
        name = getattr(func, "__name__", func)
        if written:
            raise RuntimeError(
                f"{name}: rank {rank}: expected a tensor with memory of its own, got a row of a DomainTensor that every "
                "rank has a copy of: a write into it would be lost. Write by an index, x[..., i, :] = y, or clone() it"
            )
        if _version(self._origin) != self._version_of_origin:
            raise RuntimeError(
                f"{name}: rank {rank}: expected a row of a DomainTensor as it is, got one taken before the "
                "DomainTensor was written into: take it again, or clone() it before the write"
            )

    def __reduce_ex__(self, protocol: Any) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return self.detach().clone().__reduce_ex__(protocol)


def replicated_view(value: Tensor, origin: DomainTensor) -> ReplicatedView:
    """`value`, on every rank the same, as a view of `origin`."""
    view = value.as_subclass(ReplicatedView)
    view._origin = origin
    view._version_of_origin = _version(origin)
    return view


def _version(t: Tensor) -> int:
    return 0 if t.is_inference() else t._version


def _shares_memory(a: Tensor, b: Tensor) -> bool:
    return a.layout == b.layout and a.untyped_storage()._cdata == b.untyped_storage()._cdata
