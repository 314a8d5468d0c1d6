"""How often a DomainTensor's memory was written into.

Autograd counts writes too, but not those in inference mode or by way of `.data`.
"""

from __future__ import annotations

from typing import Any

# By the memory's address. Who compares counts holds the tensor, and so the memory: no address comes again meanwhile.
_counts: dict[int, int] = {}


def count_write(t: Any) -> None:
    """Notes a write into a DomainTensor."""
    key = _key(t)
    _counts[key] = _counts.get(key, 0) + 1


def writes(t: Any) -> int:
    """A number that every write into a DomainTensor, or into what it is a view of, makes larger."""
    return _counts.get(_key(t), 0) + (0 if t.is_inference() else t._version)


def _key(t: Any) -> int:
    return t._local.untyped_storage()._cdata
