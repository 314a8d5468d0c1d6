"""Small random models by other people, built as their packages build them; nothing is downloaded."""

import dataclasses
import importlib
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Outputs(nn.Module):
    """A model that gives a tuple of tensors where the wrapped one gives an object."""

    def __init__(self, model: nn.Module, call: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.model = model
        self.call = call

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        result = self.call(self.model, x)
        return result if isinstance(result, tuple) else (result,)


@dataclasses.dataclass(frozen=True)
class Model:
    """How a model is built, and an input that it takes."""

    name: str
    build: Callable[[], nn.Module]
    shape: Sequence[int]
    dim: int = -2


def perturbed(model: nn.Module, seed: int = 3) -> nn.Module:
    """The model in float64, with noise on all parameters: no branch is switched off by a zero."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    with torch.no_grad():
        for p in model.parameters():
            scale = 0.2 * (p.std() if p.numel() > 1 and p.std() > 0 else 1.0)
            p.add_(scale * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model


def _resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16], depths=[1, 2, 1], layer_type="bottleneck", num_labels=3
    )

    def call(model: nn.Module, x: Tensor) -> Any:
        result = model(x, output_hidden_states=True)
        return result.logits, result.hidden_states[-1]

    return Outputs(ResNetForImageClassification(config), call)


def _convnext() -> nn.Module:
    from transformers import ConvNextV2Config, ConvNextV2ForImageClassification

    config = ConvNextV2Config(hidden_sizes=[8, 12, 16], depths=[1, 2, 1], num_stages=3, num_labels=3)

    def call(model: nn.Module, x: Tensor) -> Any:
        result = model(x, output_hidden_states=True)
        return result.logits, result.hidden_states[-1]

    return Outputs(ConvNextV2ForImageClassification(config), call)


def _swin(**options: Any) -> nn.Module:
    from transformers import Swinv2Config, Swinv2Model

    config = Swinv2Config(
        image_size=(48, 32),
        patch_size=2,
        embed_dim=8,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        **({"drop_path_rate": 0.0} | options),
    )

    def call(model: nn.Module, x: Tensor) -> Any:
        result = model(x, output_hidden_states=True)
        return result.last_hidden_state, result.pooler_output, result.reshaped_hidden_states[0]

    return Outputs(Swinv2Model(config), call)


def _segformer() -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        num_encoder_blocks=3,
        depths=[1, 1, 1],
        sr_ratios=[4, 2, 1],
        hidden_sizes=[8, 16, 16],
        patch_sizes=[7, 3, 3],
        strides=[4, 2, 2],
        num_attention_heads=[1, 2, 2],
        mlp_ratios=[2, 2, 2],
        decoder_hidden_size=12,
        num_labels=3,
        drop_path_rate=0.0,
        classifier_dropout_prob=0.0,
    )
    return Outputs(SegformerForSemanticSegmentation(config), lambda model, x: model(x).logits)


def _unet2d() -> nn.Module:
    from diffusers import UNet2DModel

    model = UNet2DModel(
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
    )
    return Outputs(model, lambda model, x: model(x, 7).sample)


def _autoencoder() -> nn.Module:
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
    )

    def call(model: Any, x: Tensor) -> Any:
        posterior = model.encode(x).latent_dist
        return model.decode(posterior.mode()).sample, posterior.mode(), posterior.kl()

    return Outputs(model, call)


def _monai_unet(spatial_dims: int) -> nn.Module:
    from monai.networks.nets import UNet

    return UNet(
        spatial_dims=spatial_dims,
        in_channels=2,
        out_channels=3,
        channels=(4, 8, 8),
        strides=(2, 2),
        num_res_units=2,
    )


def _segresnet(spatial_dims: int) -> nn.Module:
    from monai.networks.nets import SegResNet

    return SegResNet(
        spatial_dims=spatial_dims,
        init_filters=8,
        in_channels=2,
        out_channels=3,
        blocks_down=(1, 2, 1),
        blocks_up=(1, 1),
    )


def credit(module: str) -> Any:
    """A module of miles-credit without its data stack."""
    name = "credit.postblock.gen1"
    if name not in sys.modules:
        sys.modules["credit.postblock"] = types.ModuleType("credit.postblock")
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].PostBlock = nn.Identity  # type: ignore[attr-defined]
    return importlib.import_module(module)


def _crossformer(module: str, **options: Any) -> nn.Module:
    sizes: dict[str, Any] = dict(
        image_height=96,
        image_width=96,
        channels=2,
        surface_channels=2,
        input_only_channels=1,
        levels=2,
        dim=(8, 16, 32, 64),
        depth=(1, 1, 1, 1),
        dim_head=8,
        global_window_size=(4, 2, 2, 1),
        local_window_size=3,
    )
    return credit(module).CrossFormer(**(sizes | options))


_CROSSFORMER = "credit.models.crossformer"
_WXFORMER = "credit.models.wxformer.crossformer"
_EARTH = {"activate": True, "mode": "earth", "pad_lat": [11, 12], "pad_lon": [8, 8]}

MODELS = {
    model.name: model
    for model in (
        Model("transformers ResNet", _resnet, (2, 3, 72, 24)),
        Model("transformers ResNet, 45 rows", _resnet, (1, 3, 45, 24)),
        Model("transformers ConvNeXt V2", _convnext, (2, 3, 80, 32)),
        Model("transformers Swin V2", _swin, (1, 3, 48, 32)),
        Model("transformers Swin V2, 44 rows", _swin, (1, 3, 44, 30)),
        Model("transformers SegFormer", _segformer, (1, 3, 64, 32)),
        Model("transformers SegFormer, 57 rows", _segformer, (1, 3, 57, 32)),
        Model("diffusers UNet2DModel", _unet2d, (1, 3, 22, 16)),
        Model("diffusers AutoencoderKL", _autoencoder, (1, 3, 22, 16)),
        Model("MONAI UNet 2-D", lambda: _monai_unet(2), (2, 2, 28, 16)),
        Model("MONAI UNet 3-D", lambda: _monai_unet(3), (1, 2, 8, 20, 8), -2),
        Model("MONAI SegResNet 2-D", lambda: _segresnet(2), (2, 2, 28, 16)),
        Model("MONAI SegResNet 3-D", lambda: _segresnet(3), (1, 2, 20, 8, 8), -3),
        Model("miles-credit CrossFormer", lambda: _crossformer(_CROSSFORMER), (1, 7, 2, 96, 96)),
        Model("miles-credit WXFormer", lambda: _crossformer(_WXFORMER), (1, 7, 2, 96, 96)),
        Model(
            "miles-credit WXFormer, earth padding",
            lambda: _crossformer(_WXFORMER, image_height=73, image_width=80, padding_conf=_EARTH),
            (1, 7, 2, 73, 80),
        ),
    )
}


def built(model: Model) -> nn.Module:
    """The model with its random weights, in float64, in training mode."""
    torch.manual_seed(1)
    return perturbed(model.build()).train()


def random_swin() -> nn.Module:
    """Swin V2 with all that draws random numbers in training."""
    torch.manual_seed(1)
    return perturbed(_swin(drop_path_rate=0.3, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2))
