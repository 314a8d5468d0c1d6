"""Views in inference mode."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_nothing = contextlib.nullcontext()


@functools.cache
def gives_views(op: Any) -> bool:
    """Whether what an ATen op gives may share memory with its arguments."""
    schema = op._schema
    return not schema.is_mutable and any(a.alias_info is not None for a in schema.arguments)


@contextlib.contextmanager
def _without_inference() -> Iterator[None]:
    with torch.inference_mode(False), torch.no_grad():
        yield


def as_autograd_expects(op: Any, args: Any) -> contextlib.AbstractContextManager[None]:
    """Around an op's rule: a view of a tensor that was made outside of inference mode is made as outside.

    So it is uncut, and autograd, which shares a count of writes between the two, ends in an error for another result.
    """
    if not torch.is_inference_mode_enabled() or not gives_views(op):
        return _nothing
    first = args[0] if args else None
    if not isinstance(first, Tensor) or first.is_inference():
        return _nothing
    return _without_inference()
