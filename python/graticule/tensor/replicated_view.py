"""Views of a DomainTensor that every rank has whole, such as a row of the cut dimension."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graticule.tensor import functions
from graticule.tensor.differentiating import backward_passes
from graticule.tensor.index_entries import takes_a_view
from graticule.tensor.inference import gives_views
from graticule.tensor.write_counts import writes, writes_into
from graticule.tensor.write_through import remember, write_through

if TYPE_CHECKING:
    from graticule.tensor.domain_tensor import DomainTensor


class ReplicatedView(Tensor):
    """A plain tensor in all but this: it is a copy of what should be a view, so nothing may be written into it, but for
    what `write_through` can put where it was taken from.

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
        if func in backward_passes:
            return backward_passes[func](*args, **kwargs)
        value = write_through(func, args, kwargs)
        if value is not None:
            # Python puts it where the view came from once more, or the caller goes on with it as with the view.
            view = args[0]
            _mark(value, view._origin, writes(view._origin))
            value._taken_from = view._taken_from  # type: ignore[attr-defined]
            return value
        with torch._C.DisableTorchFunctionSubclass():
            given = [t for t in functions.tensors((args, kwargs)) if isinstance(t, ReplicatedView)]
            name = getattr(func, "__name__", "")
            if name != "__get__":
                _check_rows(func, args, kwargs, given)
                for t in functions.tensors((args, kwargs)):
                    if hasattr(t, "_cut"):
                        refuse_out_of_date(name, t)
            return _marked(func, args, given, functions.call(func, args, kwargs))

    def _check(self, func: Any, written: bool) -> None:
        rank = self._origin._cut.domain.rank
        name = getattr(func, "__name__", func)
        if written:
            raise RuntimeError(
                f"{name}: rank {rank}: expected a tensor with memory of its own, got a row of a DomainTensor that "
                "every rank has a copy of: a write into it would be lost. Write by an index, x[..., i, :] = y, or "
                "clone() it"
            )
        if writes(self._origin) != self._version_of_origin:
            raise RuntimeError(_out_of_date(name, rank))

    def _plain(self) -> Tensor:
        with torch._C.DisableTorchFunctionSubclass():
            return self.detach().clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._plain().__reduce_ex__(protocol)

    def __format__(self, spec: str) -> str:
        return self._plain().__format__(spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise RuntimeError("only a tensor made by the user can be copied deeply; detach() this one first")
        return memo.setdefault(id(self), self._plain().requires_grad_(self.requires_grad))


def _marked(func: Any, args: Any, given: list[ReplicatedView], result: Any) -> Any:
    """The result of a call on such views, of which what shares their memory becomes one."""
    if getattr(func, "__name__", "") == "contiguous" and result is given[0]:
        # In the uncut tensor a copy where the row has gaps, the row itself where it has none: not to be written into.
        result = result.view_as(result)
        _mark(result, given[0]._origin, given[0]._version_of_origin)
        return result
    for t in functions.tensors(result):
        for view in given:
            if type(t) is Tensor and _shares_memory(t, view):
                _mark(t, view._origin, view._version_of_origin)
                remember(func, args, t)
    return result


# Whose results a tensor in inference mode does not know to be views.
_VIEWS = {Tensor.select, torch.select, Tensor.unbind, torch.unbind}


def mark_views(func: Any, result: Any, kind: type[DomainTensor], given: Any) -> Any:
    """The result of a call on DomainTensors, whose plain views of them are made ReplicatedViews.

    Of views that are cut, but whose rows were moved, it is noted what they are views of.
    """
    if type(result) is kind and not result._moved or not isinstance(result, (Tensor, tuple, list)):
        return result
    for t in functions.tensors(result):
        if type(t) is kind and t._moved:
            _note_source(t, given)
            if t._is_view():
                remember(func, given, t)
        if type(t) is not Tensor:
            continue
        if t._is_view():
            base = t._base
        else:
            base = given[0] if t.is_inference() and _takes_views(func, given) else None
        if isinstance(base, kind):
            _mark(t, base, writes(base))
            remember(func, given, t)
    return result


def _takes_views(func: Any, args: Any) -> bool:
    if func is Tensor.__getitem__:
        return takes_a_view(args[1])
    return bool(args) and func in _VIEWS


def _note_source(t: Any, given: Any) -> None:
    """Notes the memory that a view whose rows were moved would share, and how often it was written into."""
    base: Any = t._base if t._is_view() else None
    if type(base) is type(t):
        source = base._local
    else:
        # Autograd takes the results of detach() and .data for no views.
        source = getattr(given[0], "_source", None) if given else None
    if source is not None:
        _mark_source(t, source)


def _mark_source(t: Any, source: Tensor) -> None:
    t._source, t._writes_when_made = source, writes_into(source)


def note_views(op: Any, args: Any, result: Any, kind: type[DomainTensor]) -> None:
    """What mark_views notes of views whose rows were moved, for those of tensors in inference mode: by the op."""
    given: Any = args[0] if args else None
    if type(given) is not kind or not gives_views(op):
        return
    source = getattr(given, "_source", None)
    source = given._local if source is None else source
    for made in functions.tensors(result):
        if type(made) is kind and made is not given and made._moved:
            _mark_source(made, source)


def refuse_misused_copies(func: Any, args: Any, kwargs: Any, kind: type[DomainTensor]) -> None:
    """RuntimeError where a call beside DomainTensors reads a copy of rows that is out of date, or writes into one."""
    if getattr(func, "__name__", "") == "__get__" and getattr(func.__self__, "__name__", "") not in _READING_PROPERTIES:
        return
    parts = (*args, *kwargs.values())
    given = [t for part in parts for t in (part if isinstance(part, (list, tuple)) else (part,))]
    _check_rows(func, args, kwargs, [t for t in given if type(t) is ReplicatedView])
    for t in given:
        if type(t) is kind:
            refuse_out_of_date(getattr(func, "__name__", func), t)


# Those that give a tensor of the same values.
_READING_PROPERTIES = {"T", "mT", "H", "mH", "real", "imag", "data"}


def refuse_out_of_date(name: Any, t: Any) -> None:
    """RuntimeError for a view whose rows were moved before what it is a view of was written into."""
    source = getattr(t, "_source", None) if t._moved else None
    if source is not None and t._writes_when_made != writes_into(source):
        raise RuntimeError(_out_of_date(name, t._cut.domain.rank))


def _check_rows(func: Any, args: Any, kwargs: Any, rows: list[ReplicatedView]) -> None:
    written = functions.targets(func, args, kwargs) if rows else []
    for t in rows:
        t._check(func, any(t is target for target in written))


def _out_of_date(name: Any, rank: int) -> str:
    return (
        f"{name}: rank {rank}: expected a view of a DomainTensor as it is, got one whose rows were moved between ranks "
        "before the DomainTensor was written into: take it again, or clone() it before the write"
    )


def _mark(t: Any, origin: DomainTensor, version: int) -> None:
    # The class alone changes: the tensor may lie in a container already.
    t.__class__ = ReplicatedView
    t._origin, t._version_of_origin = origin, version


def _shares_memory(a: Tensor, b: Tensor) -> bool:
    return a.layout == b.layout and a.untyped_storage()._cdata == b.untyped_storage()._cdata
