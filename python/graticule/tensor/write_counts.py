"""How often a DomainTensor's memory was written into.

Autograd counts writes too, but not those in inference mode or by way of `.data`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

# By the memory's address. Who compares counts holds the tensor, and so the memory: no address comes again meanwhile.
_counts: dict[int, int] = {}


def count_write(t: Any) -> None:
    """Notes a write into a DomainTensor."""
    key = _key(t._local)
    _counts[key] = _counts.get(key, 0) + 1


def writes(t: Any) -> int:
    """A number that every write into a DomainTensor, or into what it is a view of, makes larger."""
    return writes_into(t._local) + (0 if t.is_inference() else t._version)


def writes_into(local: Tensor) -> int:
    """The same, without autograd's count, of a DomainTensor's own rows: they keep nothing of its graph alive."""
    return _counts.get(_key(local), 0)


def written(op: Any, args: Any, kwargs: Any) -> list[Any]:
    """What a call of an ATen op writes into."""
    found: list[Any] = []
    for i, argument in enumerate(op._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = kwargs.get(argument.name) if argument.kwarg_only or i >= len(args) else args[i]
        found += value if isinstance(value, (list, tuple)) else [value]
    return found


def _key(local: Tensor) -> int:
    return local.untyped_storage()._cdata
