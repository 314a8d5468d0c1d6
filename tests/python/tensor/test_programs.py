"""Chance programs: a dozen operations one after the other, on whatever shapes and cuts the ones before have left."""

import functools
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from support.device import DEVICE
from tensor.comparison import Cut, compare

Step = Callable[[Tensor], Tensor]
STEPS = 8
PROGRAMS = 60


def _dims(rng: random.Random, x: Tensor) -> int:
    return rng.randrange(x.dim())


def _factors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0]


def _made(seed: int, *shape: int) -> Tensor:
    return (
        torch.randn(shape, device="cpu", generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE)
        / 2
    )


def _reshape(rng: random.Random, x: Tensor) -> Step:
    dim = _dims(rng, x)
    if rng.random() < 0.5 and x.dim() > 1:
        dim = min(dim, x.dim() - 2)
        return lambda t: t.flatten(dim, dim + 1)
    k = rng.choice(_factors(x.shape[dim]))
    return lambda t: t.unflatten(dim, (k, -1))


def _order(rng: random.Random, x: Tensor) -> Step:
    order = rng.sample(range(x.dim()), x.dim())
    return lambda t: t.permute(order)


def _slice(rng: random.Random, x: Tensor) -> Step:
    dim = _dims(rng, x)
    begin = rng.randrange(x.shape[dim])
    end = rng.randint(begin + 1, x.shape[dim])
    step = rng.choice([1, 1, 2, 3])
    return lambda t: t[(slice(None),) * dim + (slice(begin, end, step),)]


def _rearranged(rng: random.Random, x: Tensor) -> Step:
    dim, n = _dims(rng, x), rng.randint(-4, 4)
    chosen = torch.tensor([rng.randrange(x.shape[dim]) for _ in range(rng.randint(1, 8))])
    return rng.choice(
        [
            lambda t: t.flip(dim),
            lambda t: t.roll(n, dim),
            lambda t: t.index_select(dim, chosen),
            lambda t: torch.cat([t, t.flip(dim)], dim),
            lambda t: torch.stack([t, -t], dim),
            lambda t: torch.cat(t.chunk(3, dim)[::-1], dim),
            lambda t: t.repeat_interleave(2, dim),
            lambda t: torch.cat(t.split(2, dim)[:3], dim),
        ]
    )


def _padded(rng: random.Random, x: Tensor) -> Step:
    mode = rng.choice(["constant", "reflect", "replicate", "circular"])
    width = [rng.randint(0, 2) for _ in range(4)]
    return lambda t: F.pad(t, width, mode)


def _reduced(rng: random.Random, x: Tensor) -> Step:
    dim, keep = _dims(rng, x), rng.random() < 0.5
    other = _dims(rng, x)
    return rng.choice(
        [
            lambda t: t - t.mean(dim, keepdim=True),
            lambda t: t.sum(dim, keepdim=keep),
            lambda t: t / (1 + t.var((dim, other) if other != dim else dim, keepdim=True, correction=0)),
            lambda t: t.amax(dim, keepdim=keep),
            lambda t: t.softmax(dim),
            lambda t: t.cumsum(dim),
            lambda t: t.logsumexp(dim, keepdim=keep),
            lambda t: t.norm(dim=dim, keepdim=True) + t,
        ]
    )


def _across(rng: random.Random, x: Tensor) -> Step:
    """What mixes values along the last dimension, or all."""
    n, seed = x.shape[-1], rng.randrange(1000)
    weight = _made(seed, 3, n)
    return rng.choice(
        [
            lambda t: F.linear(t, weight),
            lambda t: F.layer_norm(t, t.shape[-2:]) if t.dim() > 1 else t,
            lambda t: t @ t.transpose(-1, -2) / math.sqrt(n),
            lambda t: F.scaled_dot_product_attention(t, t.flip(-2), t),
            lambda t: F.softmax(t @ t.mT, -1) @ t,
            lambda t: torch.einsum("...hw,...hw->...w", t, t),
            lambda t: t * weight[:1].sigmoid(),
            lambda t: t.mul(_made(seed, *t.shape)),
        ]
    )


class _DenseGradient(torch.autograd.Function):
    """Lays a gradient out anew: of one sample and a permuted one, torch's own batch norm gives a wrong one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: D102
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]  # noqa: D102
        return gradient.contiguous()


def _image(rng: random.Random, x: Tensor) -> Step:
    """What takes samples, channels and two dimensions of space; another tensor is left alone."""
    if x.dim() != 4:
        return lambda t: t
    kernel, stride, padding = rng.randint(1, 4), rng.randint(1, 3), rng.randint(0, 1)
    weight = _made(rng.randrange(1000), 4, x.shape[1], kernel, kernel)
    turned = _made(rng.randrange(1000), x.shape[1], 2, kernel, kernel)
    sizes = (rng.randint(1, 14), rng.randint(1, 9))
    return rng.choice(
        [
            lambda t: F.conv2d(t, weight, None, stride, padding),
            lambda t: F.conv_transpose2d(t, turned, None, stride, padding),
            lambda t: F.max_pool2d(t, kernel, stride, min(padding, kernel // 2), ceil_mode=True),
            lambda t: F.avg_pool2d(t, kernel, stride, min(padding, kernel // 2)),
            lambda t: F.adaptive_avg_pool2d(t, sizes),
            lambda t: F.interpolate(t, sizes, mode="bilinear", align_corners=kernel > 2),
            lambda t: F.interpolate(t, scale_factor=2),
            lambda t: F.group_norm(t, 1),
            lambda t: _DenseGradient.apply(F.instance_norm(t.contiguous())),
            lambda t: _DenseGradient.apply(F.batch_norm(t.contiguous(), None, None, training=True)),
            lambda t: F.pixel_unshuffle(t, 2),
            lambda t: F.pixel_shuffle(t, 2),
            lambda t: F.fold(F.unfold(t, 3, padding=1), t.shape[-2:], 3, padding=1),
        ]
    )


def _joined(rng: random.Random, x: Tensor) -> Step:
    """Broadcasts between parts of one tensor that are cut differently."""
    dim = _dims(rng, x)
    return rng.choice(
        [
            lambda t: t.sigmoid() * t.select(dim, 0).unsqueeze(dim),
            lambda t: t + t.mT if t.shape[-1] == t.shape[-2] else t.relu(),
            lambda t: torch.where(t > 0.123, t, t.mean()),
            lambda t: t.masked_fill(t < -0.123, 0.5) + t.narrow(dim, 0, 1),
            lambda t: t.unbind(dim)[-1],
        ]
    )


KINDS = (_reshape, _order, _slice, _rearranged, _padded, _reduced, _across, _image, _image, _joined)


def program(seed: int, x: Tensor) -> Step:
    """Steps that torch takes of the whole tensor, and that leave it neither large nor empty."""
    rng = random.Random(seed)
    steps: list[Step] = []
    while len(steps) < STEPS:
        step = rng.choice(KINDS)(rng, x)
        try:
            result = step(x)
        except (RuntimeError, ValueError, IndexError, NotImplementedError, TypeError):
            continue
        if (
            0 < result.numel() < 20000
            and 1 < result.dim() < 7
            and result.abs().max() > 1e-3
            and result.isfinite().all()
        ):
            steps.append(step)
            x = result / result.std(correction=0).clamp(min=0.1)
    return functools.partial(_run, steps)


def _run(steps: list[Step], x: Tensor) -> Any:
    for step in steps:
        x = step(x)
        x = x / x.detach().std(correction=0).clamp(min=0.1)
    return x


@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_a_program_is_exact(seed: int) -> None:
    """Gathers are allowed: what is wanted here is the truth."""
    shape = [(2, 4, 11, 6), (1, 8, 12, 8), (2, 3, 7, 7), (4, 16, 6, 4)][seed % 4]
    x = _made(seed, *shape)
    compare(program(seed, x), Cut(x, dim=[2, 2, 3, 1][seed % 4]), ranks=(2, 3), gathers=True)
