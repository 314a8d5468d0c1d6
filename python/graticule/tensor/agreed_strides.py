"""Strides that all ranks agree about. Torch chooses by them what an op is made of, and so what is sent."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from graticule.tensor.layout import strides_in_order


def settle(op: Any, args: Any, kwargs: Any, result: Any) -> Any:
    """The result with the strides that the op gives of whole tensors without values, where some rank's rows are too few
    to tell, and laid out so: on all ranks, though what runs on rows may lay them out otherwise.
    """
    if isinstance(result, Tensor):
        if not _is_open(result):
            return result
    elif not isinstance(result, (tuple, list)) or not any(_is_open(t) for t in result):
        return result
    given = {id(t) for t in pytree.tree_leaves((args, kwargs))}
    flat, spec = pytree.tree_flatten(result)
    whole = _of_whole(op, args, kwargs, len(flat))
    return pytree.tree_unflatten(
        [
            _with_strides(t, like) if _is_open(t) and id(t) not in given else t
            for t, like in zip(flat, whole, strict=True)
        ],
        spec,
    )


def _is_open(t: Any) -> bool:
    return getattr(t, "_strides_are_guessed", False)


def _with_strides(t: Any, like: _Like | None) -> Any:
    shape = tuple(t.shape)
    known = like is not None and like.shape == shape
    strides = like.strides if like is not None and known else torch.empty(shape, device="meta").stride()
    local = t._local
    if t.stride() != strides and not _repeats(strides, shape):
        own = strides_in_order(strides, shape, tuple(local.shape))
        local = torch.empty_strided(local.shape, own, dtype=local.dtype, device=local.device).copy_(local)
    return type(t)(local, t._cut, t._moved, strides=strides)


def _repeats(strides: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return any(step == 0 and size > 1 for step, size in zip(strides, shape, strict=True))


class _Like(NamedTuple):
    """A tensor but for its values."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def _of_whole(op: Any, args: Any, kwargs: Any, count: int) -> Sequence[_Like | None]:
    """What the op gives of whole tensors without values, or nothing where it has no such form: `count` leaves."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    # With their types: 1 and True are equal.
    likes = tuple((type(leaf), _like(leaf) if isinstance(leaf, Tensor) else leaf) for leaf in leaves)
    try:
        found = _remembered(op, likes, spec)
    except TypeError:
        # An argument that cannot be remembered by.
        found = _without_values(op, likes, spec)
    return found if len(found) == count else [None] * count


def _without_values(op: Any, likes: tuple[Any, ...], spec: Any) -> tuple[_Like | None, ...]:
    try:
        # Not on the meta device: convolutions choose their layout by the device.
        with _in_silence(), FakeTensorMode():
            args, kwargs = pytree.tree_unflatten([_made(leaf) for _, leaf in likes], spec)
            return tuple(_like(t) if isinstance(t, Tensor) else None for t in pytree.tree_leaves(op(*args, **kwargs)))
    except Exception:  # noqa: BLE001
        # On every rank: it goes by shapes alone.
        return ()


@contextlib.contextmanager
def _in_silence() -> Iterator[None]:
    """Without what torch logs, on this thread, of an op that has no form without values."""
    thread = threading.get_ident()
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    others = lambda record: record.thread != thread  # noqa: E731
    logger.addFilter(others)
    try:
        yield
    finally:
        logger.removeFilter(others)


_remembered = functools.lru_cache(maxsize=4096)(_without_values)


def _like(t: Tensor) -> _Like:
    return _Like(tuple(t.shape), t.stride(), t.dtype, t.device)


def _made(leaf: Any) -> Any:
    if not isinstance(leaf, _Like):
        return leaf
    return torch.empty_strided(leaf.shape, leaf.strides, dtype=leaf.dtype, device=leaf.device)
