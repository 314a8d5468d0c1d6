"""What convert knows of torch.nn's modules: which mix rows, and which treat every row alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graticule.domain_parallel.borrowed import cut_dimension

# Act on every element alone, on channels alone, or hold no computation.
LOCAL: tuple[type, ...] = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.Threshold,
    nn.ReLU,
    nn.RReLU,
    nn.Hardtanh,
    nn.ReLU6,
    nn.Sigmoid,
    nn.Hardsigmoid,
    nn.Tanh,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.Hardshrink,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Softplus,
    nn.Softshrink,
    nn.PReLU,
    nn.Softsign,
    nn.Tanhshrink,
    nn.Softmax2d,
    nn.LocalResponseNorm,
    nn.ChannelShuffle,
    nn.Embedding,
    nn.Linear,
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
    nn.ParameterList,
    nn.ParameterDict,
)

# Modules of torch.nn that have children and yet must be judged as one.
WHOLE: tuple[type, ...] = (
    nn.MultiheadAttention,
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerDecoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)


# Local or not by the dimension that they act along. Those that take dimension 1 for channels are local too, in a batch.
_ALONG_ONE: tuple[type, ...] = (nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.GLU)
_ALONG_THE_LAST: tuple[type, ...] = (nn.LayerNorm, nn.RMSNorm, nn.Linear)
_ALONG_CHANNELS: tuple[type, ...] = (nn.LocalResponseNorm, nn.ChannelShuffle)

ANY_DIMENSIONS = frozenset({3, 4, 5})


def mixes_rows(module: nn.Module, shard_dim: int = -2, dimensions: frozenset[int] = ANY_DIMENSIONS) -> bool:
    """Whether a module that convert does not handle may mix rows along `shard_dim`, so that it cannot be left as it is.

    Known for torch's own classes, and for subclasses of them, which are what their base is. A class from elsewhere
    cannot be judged and counts as local; its forward() is the user's to look at. Tensors are taken to be batched,
    dimension 1 holds the channels, and to have any of `dimensions`: of three the last is cut, whatever shard_dim.
    """
    if isinstance(module, (*WHOLE, torch.jit.ScriptModule)):
        return True
    base = _torch_base(module)
    if base is None:
        return False
    if not issubclass(base, (*_ALONG_ONE, *_ALONG_THE_LAST)):
        return not issubclass(base, LOCAL)
    possible = (dims for dims in dimensions if dims == 3 or dims + shard_dim >= 2)
    return any(_acts_along(module, base, _cut(shard_dim, dims), dims) for dims in possible)


def refused_unbatched(module: nn.Module, shard_dim: int, dimensions: frozenset[int]) -> frozenset[int]:
    """Numbers of dimensions that no batch of the model has, and of which without a batch a local module mixes rows.

    Not two: what a model of one spatial dimension gives a module in two may as well be a batch of classes.
    """
    base = _torch_base(module)
    unbatched = (dims - 1 for dims in dimensions if dims > 3 and dims + shard_dim >= 2)
    return frozenset(
        dims
        for dims in unbatched
        if base and dims not in dimensions and _acts_along(module, base, dims + shard_dim, dims)
    )


def _cut(shard_dim: int, dims: int) -> int:
    return cut_dimension(shard_dim, dims, "convert_to_domain_parallel")


def _acts_along(module: Any, base: type, dim: int, dims: int) -> bool:
    """Whether a module acts along dimension `dim` of `dims`; only of those whose kind alone does not tell."""
    if issubclass(base, nn.Linear):
        return dim == dims - 1
    if issubclass(base, _ALONG_THE_LAST):
        return dim >= dims - len(module.normalized_shape)
    if issubclass(base, _ALONG_ONE):
        # None: torch chooses, by rules that it deprecates.
        return module.dim is None or module.dim in (dim, dim - dims)
    return issubclass(base, _ALONG_CHANNELS) and dim == 1


def _torch_base(module: nn.Module) -> type | None:
    """The class of torch's that `module` is, or is derived from; none where that is nn.Module itself."""
    for kind in type(module).__mro__:
        if kind is nn.Module:
            return None
        # A parametrized module is what its base is.
        if kind.__module__.startswith("torch.") and not kind.__module__.startswith("torch.nn.utils"):
            return kind
    return None
