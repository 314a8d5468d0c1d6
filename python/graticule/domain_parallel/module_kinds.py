"""What convert knows of torch.nn's modules: which mix rows, and which treat every row alone."""

from __future__ import annotations

from typing import Any

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


def mixes_rows(module: nn.Module) -> bool:
    """Whether a module that convert does not handle may mix rows, so that it cannot be left as it is.

    Known for torch.nn's own classes. A class from elsewhere without children cannot be judged and counts as local; its
    forward() is the user's to look at.
    """
    if isinstance(module, WHOLE):
        return True
    if type(module).__module__.startswith("torch.nn.utils"):
        return False
    if not type(module).__module__.startswith("torch.nn"):
        # Subclasses of torch.nn's classes are what their base is.
        return isinstance(module, _known_mixing())
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return len(module.normalized_shape) > 1
    if isinstance(module, (nn.Softmax, nn.LogSoftmax, nn.Softmin)):
        return module.dim not in (1, -1, -3)
    if isinstance(module, nn.GLU):
        return module.dim not in (1, -1, -3)
    return not isinstance(module, LOCAL) and type(module) is not nn.Module


def _known_mixing() -> tuple[Any, ...]:
    names = (
        "_MaxPoolNd",
        "_AvgPoolNd",
        "_LPPoolNd",
        "_AdaptiveAvgPoolNd",
        "_AdaptiveMaxPoolNd",
    )
    pooling = tuple(getattr(nn.modules.pooling, name) for name in names)
    return (
        *pooling,
        nn.modules.batchnorm._NormBase,
        nn.Upsample,
        nn.RNNBase,
        nn.Fold,
        nn.Unfold,
        nn.modules.padding._ConstantPadNd,
        nn.modules.padding._ReflectionPadNd,
        nn.modules.padding._ReplicationPadNd,
        nn.modules.padding._CircularPadNd,
        nn.PixelShuffle,
        nn.PixelUnshuffle,
        nn.Flatten,
        nn.Unflatten,
    )
