"""A model's layers, swapped for cut ones."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from graticule.domain import Domain
from graticule.domain_parallel import layers
from graticule.domain_parallel.borrowed import BorrowingLayer, changed_forward
from graticule.domain_parallel.empty_shards import is_local_on_any_cut, welcome_empty_shards
from graticule.domain_parallel.manager import active_domain
from graticule.domain_parallel.module_kinds import ANY_DIMENSIONS, mixes_rows, refused_unbatched
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


@dataclasses.dataclass(frozen=True)
class _Cut:
    """What convert knows of the tensors that the model's modules are given."""

    manager: Any
    shard_dim: int
    dimensions: frozenset[int]


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
    (F.pad, roll, means over space, reshapes, ...) cannot be seen from outside: look for it yourself.

    Which dimension a module acts along depends on how many its input has. Inputs are taken to be batched, with two more
    dimensions than the model's convolutions have spatial ones, or any of 3 to 5 in a model without convolutions: Linear
    and Softmax(-1) are local beside 2-D convolutions with shard_dim=-2, and mix rows beside 1-D ones.

    Args:
        model: the model, the same on every rank.
        manager: what graticule.Domain.of takes; None leaves the layers to the process-wide manager.
        shard_dim: the cut dimension, -1, -2 or -3, counted from the end so that it means the same for 4 and 5
            dimensions (-2: H). A module of one spatial dimension is cut along that.
        custom_converters: module class to a function that takes the module and returns what stands in its place. Looked
            up first, the class and its subclasses.
        rows: rows of the whole model input: the shapes are then traced once, without a message, at the first call, and
            no layer exchanges sizes. Or rows by module name, for those layers.
        strict: a module of torch.nn that may mix rows and is not handled (pooling, batch norm, attention, recurrence,
            padding, ...) is an error that lists each by name, as is a convolution or group norm of a
            subclass with a forward of its own; False: a warning.

    Raises:
        ValueError: for such modules, or another shard_dim, before anything is changed. At the call, from a module that
            takes dimension 1 for channels (Softmax(1), LocalResponseNorm, ...), for an input without a batch of which
            that dimension is the cut one.

    """
    if shard_dim not in (-1, -2, -3):
        raise ValueError(
            "convert_to_domain_parallel: expected a shard_dim of -1, -2 or -3, counted from the end so that it means "
            f"the same whatever the number of dimensions, got {shard_dim}"
        )
    custom = dict(custom_converters or {})
    cut = _Cut(manager, shard_dim, _dimensions(model))
    unhandled = [
        f"{name or 'the model itself'} ({type(module).__name__})" for name, module in _unhandled(model, cut, custom)
    ]
    if unhandled:
        message = (
            "convert_to_domain_parallel: these modules may mix rows and have no cut layer: "
            + ", ".join(unhandled)
            + ". Replace them, or give custom_converters for them (lambda module: module, where one never meets the "
            "cut); or give the model as it is a DomainTensor (graticule.shard, docs/tensor.md), which takes them all."
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
    result = _convert(model, "", cut, custom, row_of, memo)
    if tracing is not None:
        tracing.attach(result)
    return result


def _dimensions(model: nn.Module) -> frozenset[int]:
    """How many dimensions a batch in the model may have, as its convolutions tell; any where there are none."""
    convolutions = (nn.modules.conv._ConvNd, layers._ConvBase)
    found = {len(m.kernel_size) + 2 for m in model.modules() if isinstance(m, convolutions)}
    return frozenset(found) or ANY_DIMENSIONS


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


def _stays_and_mixes(module: nn.Module, cut: _Cut) -> bool:
    """Whether a module without a cut layer may mix rows: by its class, or by computing otherwise than its kind."""
    if _converter(module) is not None:
        return False
    return _kind(module) is not None or mixes_rows(module, cut.shard_dim, cut.dimensions)


def _refuse_unbatched(
    domain: Domain | None, refused: frozenset[int], module: nn.Module, args: tuple, kwargs: dict[str, Any]
) -> None:
    x = next(iter((*args, *kwargs.values())), None)
    if isinstance(x, Tensor) and x.dim() in refused and active_domain(domain) is not None:
        raise ValueError(
            f"{type(module).__name__}: expected a batched input in a model cut over ranks, got one of {x.dim()} "
            f"dimensions, of which {module} would act along the cut; give the model a batch of one"
        )


def _guard_unbatched(module: nn.Module, cut: _Cut) -> None:
    """Lets a module that stays refuse tensors without a batch, where it would take rows for channels."""
    refused = refused_unbatched(module, cut.shard_dim, cut.dimensions)
    hooks = module._forward_pre_hooks.values()
    if not refused or any(getattr(hook, "func", None) is _refuse_unbatched for hook in hooks):
        return
    # A manager or a process group can be neither copied nor pickled.
    domain = None if cut.manager is None else Domain.of(cut.manager)
    module.register_forward_pre_hook(functools.partial(_refuse_unbatched, domain, refused), with_kwargs=True)


def _local_on_any_cut(module: Any, shard_dim: int) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd) and is_local_on_any_cut(module, shard_dim)


def _unhandled(module: nn.Module, cut: _Cut, custom: Mapping[type, Converter]) -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()

    def walk(at: nn.Module, name: str) -> None:
        if id(at) in seen:
            return
        seen.add(id(at))
        if _custom(at, custom) or isinstance(at, _OURS) or _converter(at):
            return
        if _stays_and_mixes(at, cut):
            found.append((name, at))
            return
        for child_name, child in at.named_children():
            walk(child, f"{name}.{child_name}" if name else child_name)

    walk(module, "")
    return found


def _convert(
    module: nn.Module,
    name: str,
    cut: _Cut,
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
    elif converter is not None and _local_on_any_cut(module, cut.shard_dim):
        welcome_empty_shards(module, cut.shard_dim)
    elif converter is not None:
        result = converter(module, cut.shard_dim, domain=cut.manager, rows=rows.get(name))
    elif not _stays_and_mixes(module, cut):
        _guard_unbatched(module, cut)
        # Not named_children(): it leaves out the second name of a module that has two.
        for child_name, child in list(module._modules.items()):
            if child is None:
                continue
            child_path = f"{name}.{child_name}" if name else child_name
            swapped = _convert(child, child_path, cut, custom, rows, memo)
            if swapped is not child:
                module._modules[child_name] = swapped
    memo[id(module)] = result
    return result
