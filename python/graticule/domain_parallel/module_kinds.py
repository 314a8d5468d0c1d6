"""What convert knows of torch.nn's modules: which mix rows, and which treat every row alone."""

from __future__ import annotations

import torch
from torch import nn

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


def mixes_rows(module: nn.Module, shard_dim: int = -2) -> bool:
    """Whether a module that convert does not handle may mix rows along `shard_dim`, so that it cannot be left as it is.

    Known for torch's own classes, and for subclasses of them, which are what their base is. A class from elsewhere
    cannot be judged and counts as local; its forward() is the user's to look at. Tensors are taken to be batched:
    dimension 1 holds the channels.
    """
    if isinstance(module, (*WHOLE, torch.jit.ScriptModule)):
        return True
    base = _torch_base(module)
    if base is None:
        return False
    last_is_cut = shard_dim not in (-2, -3)
    if issubclass(base, (nn.LayerNorm, nn.RMSNorm)):
        return last_is_cut or len(module.normalized_shape) > 1  # type: ignore[arg-type]
    if issubclass(base, (nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.GLU)):
        return module.dim not in {1, -1, -3} - {shard_dim}
    if issubclass(base, nn.Linear):
        return last_is_cut
    return not issubclass(base, LOCAL)


def _torch_base(module: nn.Module) -> type | None:
    """The class of torch's that `module` is, or is derived from; none where that is nn.Module itself."""
    for kind in type(module).__mro__:
        if kind is nn.Module:
            return None
        # A parametrized module is what its base is.
        if kind.__module__.startswith("torch.") and not kind.__module__.startswith("torch.nn.utils"):
            return kind
    return None
