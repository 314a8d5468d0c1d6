"""Strides that all ranks agree about. Torch chooses by them what an op is made of, and so what is sent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def settle(op: Any, args: Any, kwargs: Any, result: Any) -> Any:
    """The result with the strides that the whole tensors' would have, where this rank's rows are too few to tell."""
    if isinstance(result, Tensor):
        if not _is_open(result):
            return result
    elif not isinstance(result, (tuple, list)) or not any(_is_open(t) for t in result):
        return result
    given = {id(t) for t in pytree.tree_leaves((args, kwargs))}
    flat, spec = pytree.tree_flatten(result)
    whole = _of_whole(op, args, kwargs, flat)
    return pytree.tree_unflatten(
        [
            _with_strides(t, like) if _is_open(t) and id(t) not in given else t
            for t, like in zip(flat, whole, strict=True)
        ],
        spec,
    )


def _is_open(t: Any) -> bool:
    return getattr(t, "_strides_are_guessed", False)


def _with_strides(t: Any, like: Any) -> Any:
    same = isinstance(like, Tensor) and like.shape == t.shape
    strides = like.stride() if same else torch.empty(tuple(t.shape), device="meta").stride()
    return type(t)(t._local, t._cut, t._moved, strides=strides)


def _of_whole(op: Any, args: Any, kwargs: Any, results: list[Any]) -> list[Any]:
    """What the op gives of whole tensors without values, or nothing where it has no such form."""

    def abstract(t: Any) -> Any:
        if isinstance(t, torch.device):
            return torch.device("meta")
        if not isinstance(t, Tensor):
            return t
        return torch.empty_strided(tuple(t.shape), t.stride(), dtype=t.dtype, device="meta")

    try:
        found = pytree.tree_leaves(op(*pytree.tree_map(abstract, args), **pytree.tree_map(abstract, kwargs)))
    except (NotImplementedError, RuntimeError):
        found = []
    return found if len(found) == len(results) else [None] * len(results)
