"""A model's layers, swapped for cut ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from graticule.domain_parallel import layers
from graticule.domain_parallel.borrowed import BorrowingLayer, changed_forward
from graticule.domain_parallel.empty_shards import is_local_on_any_cut, welcome_empty_shards
from graticule.domain_parallel.module_kinds import mixes_rows
from graticule.domain_parallel.traced_rows import TracedRows
from graticule.periodic import PeriodicConv2d

Converter = Callable[[Any], nn.Module]

_CONVERTED: dict[type, Callable[..., nn.Module]] = {
    nn.Conv1d: layers.DomainParallelConv1d,
    nn.Conv2d: layers.DomainParallelConv2d,
    nn.Conv3d: layers.DomainParallelConv3d,
    nn.ConvTranspose1d: layers.DomainParallelConvTranspose1d,
    nn.ConvTranspose2d: layers.DomainParallelConvTranspose2d,
    nn.ConvTranspose3d: layers.DomainParallelConvTranspose3d,
    nn.GroupNorm: layers.DomainParallelGroupNorm,
    nn.Upsample: layers.DomainParallelUpsample,
    PeriodicConv2d: layers.DomainParallelPeriodicConv2d,
}

_OURS = (BorrowingLayer, layers.DomainParallelInterpolate)


def convert_to_domain_parallel(
    model: nn.Module,
    manager: Any,
    shard_dim: int = -2,
    custom_converters: Mapping[type, Converter] | None = None,
    rows: int | Mapping[str, int] | None = None,
    strict: bool = True,
) -> nn.Module:
    """Swaps every convolution, transposed convolution, group norm, Upsample and PeriodicConv2d for its cut layer.

    In place; returns the model (or the layer, where the model itself is one). State-dict keys and parameter names stay
    as they were. Left as they are: convolutions that are local on any cut (kernel 1, stride 1 and no padding along the
    cut), modules that treat every row alone, and layers that are cut already. What forward() does with functions
    (F.pad,
    roll, means over space, reshapes, ...) cannot be seen from outside: look for it yourself.

    Args:
        model: the model, the same on every rank.
        manager: what graticule.Domain.of takes; None leaves the layers to the process-wide manager.
        shard_dim: the cut dimension, counted from the end so that it means the same for 4 and 5 dimensions (-2: H). A
            module of one spatial dimension is cut along that.
        custom_converters: module class to a function that takes the module and returns what stands in its place. Looked
            up first, the class and its subclasses.
        rows: rows of the whole model input: the shapes are then traced once, without a message, at the first call, and
            no layer exchanges sizes. Or rows by module name, for those layers.
        strict: a module of torch.nn that may mix rows and is not handled (pooling, batch norm, attention, recurrence,
            padding, ...) is an error that lists each by name, as is a convolution or group norm of a
            subclass with a forward of its own; False: a warning.

    Raises:
        ValueError: for such modules, before anything is changed.

    """
    custom = dict(custom_converters or {})
    unhandled = [
        f"{name or 'the model itself'} ({type(module).__name__})"
        for name, module in _unhandled(model, shard_dim, custom)
    ]
    if unhandled:
        message = (
            "convert_to_domain_parallel: these modules mix rows and have no cut layer: "
            + ", ".join(unhandled)
            + ". Replace them, or give custom_converters for them."
        )
        if strict:
            raise ValueError(message + " strict=False converts the rest.")
        warnings.warn(message, stacklevel=2)
    row_of = rows if isinstance(rows, Mapping) else {}
    unknown = sorted(set(row_of) - {name for name, _ in model.named_modules(remove_duplicate=False)})
    if unknown:
        raise ValueError(f"convert_to_domain_parallel: rows names modules that the model does not have: {unknown}")
    tracing = TracedRows(model, rows, manager, shard_dim) if isinstance(rows, int) else None
    memo: dict[int, nn.Module] = {}
    result = _convert(model, "", manager, shard_dim, custom, row_of, memo)
    if tracing is not None:
        tracing.attach(result)
    return result


def _custom(module: nn.Module, custom: Mapping[type, Converter]) -> Converter | None:
    for kind in type(module).__mro__:
        if kind in custom:
            return custom[kind]
    return None


def _kind(module: nn.Module) -> type | None:
    """The class with a cut layer that the module is of, or derived from."""
    return next((kind for kind in type(module).__mro__ if kind in _CONVERTED), None)


def _converter(module: nn.Module) -> Callable[..., nn.Module] | None:
    kind = _kind(module)
    return None if kind is None or changed_forward(module, kind) else _CONVERTED[kind]


def _stays_and_mixes(module: nn.Module, shard_dim: int) -> bool:
    """Whether a module without a cut layer may mix rows: by its class, or by computing otherwise than its kind."""
    return _converter(module) is None and (_kind(module) is not None or mixes_rows(module, shard_dim))


def _local_on_any_cut(module: Any, shard_dim: int) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd) and is_local_on_any_cut(module, shard_dim)


def _unhandled(module: nn.Module, shard_dim: int, custom: Mapping[type, Converter]) -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()

    def walk(at: nn.Module, name: str) -> None:
        if id(at) in seen:
            return
        seen.add(id(at))
        if _custom(at, custom) or isinstance(at, _OURS) or _converter(at):
            return
        if _stays_and_mixes(at, shard_dim):
            found.append((name, at))
            return
        for child_name, child in at.named_children():
            walk(child, f"{name}.{child_name}" if name else child_name)

    walk(module, "")
    return found


def _convert(
    module: nn.Module,
    name: str,
    manager: Any,
    shard_dim: int,
    custom: Mapping[type, Converter],
    rows: Mapping[str, int],
    memo: dict[int, nn.Module],
) -> nn.Module:
    if id(module) in memo:
        return memo[id(module)]
    own = _custom(module, custom)
    converter = _converter(module)
    result = module
    if own is not None:
        result = own(module)
    elif isinstance(module, _OURS):
        pass
    elif converter is not None and _local_on_any_cut(module, shard_dim):
        welcome_empty_shards(module, shard_dim)
    elif converter is not None:
        result = converter(module, shard_dim, domain=manager, rows=rows.get(name))
    elif not _stays_and_mixes(module, shard_dim):
        # Not named_children(): it leaves out the second name of a module that has two.
        for child_name, child in list(module._modules.items()):
            if child is None:
                continue
            child_path = f"{name}.{child_name}" if name else child_name
            swapped = _convert(child, child_path, manager, shard_dim, custom, rows, memo)
            if swapped is not child:
                module._modules[child_name] = swapped
    memo[id(module)] = result
    return result
