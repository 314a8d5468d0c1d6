"""plan(): no numbers, no messages, and what a run then shows."""

import pytest
import torch
from torch import nn

import graticule
from support.ranks import run_ranks
from support.small_models import fine


def test_rows_memory_and_no_messages():
    sent = torch.ops.graticule.messages_sent()
    found = graticule.plan(fine, (1, 3, 21, 8), 3)
    assert torch.ops.graticule.messages_sent() == sent
    assert found.levels == {21: [7, 7, 7], 11: [3, 4, 4]}
    assert found.modules == {21: ["0", "1", "2", "3"], 11: ["4"]}
    assert "21 rows: 3 x 7" in str(found)
    assert found.gathers == []
    assert found.parameters == sum(4 * p.numel() for p in fine().parameters())
    assert found.serial_activations / 3 < found.activations < found.serial_activations / 2


@pytest.mark.parametrize("border", ["zeros", "circular"])
@pytest.mark.parametrize("ranks", [2, 3])
def test_bytes_are_near_those_of_a_run(ranks, border):
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 5, padding=2, padding_mode=border), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1)
        )

    planned = graticule.plan(build, (1, 3, 24, 64), ranks, dtype=torch.float64)
    whole = torch.randn(1, 3, 24, 64, dtype=torch.float64)

    def body(domain: graticule.Domain) -> None:
        torch.manual_seed(0)
        x = graticule.shard(whole, domain).requires_grad_()
        build().double()(x).sum().backward()

    sent = torch.ops.graticule.bytes_sent()
    run_ranks(ranks, body)
    each = (torch.ops.graticule.bytes_sent() - sent) / ranks
    # Planned is the rank that sends most: one in the middle has twice the neighbours.
    assert 0.9 * each < planned.bytes < 2 * each


def test_attention():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = x.flatten(2).transpose(1, 2)
            return self.attention(tokens, tokens, tokens, need_weights=False)[0]

    found = graticule.plan(Tokens, (2, 8, 13, 6), 3)
    assert found.levels[13] == [4, 4, 5]
    assert found.gathers == []
    assert found.bytes > 0


def test_results_may_be_complex_and_nothing_is_drawn_from_the_generator():
    class Spectrum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.rfft(torch.nn.functional.dropout(x), dim=-1)

    state = torch.get_rng_state()
    found = graticule.plan(lambda: nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), Spectrum()), (1, 1, 8, 8), 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.bytes > 0


def test_what_gathers_is_named():
    class Cross(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.matrix_exp(x)

    found = graticule.plan(lambda: nn.Sequential(nn.Conv2d(1, 1, 1), Cross()), (1, 1, 8, 8), 2)
    assert ("1", "aten.linalg_matrix_exp.default") in found.gathers
    assert "1: aten.linalg_matrix_exp.default" in str(found)


LAYERS = {
    "bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "bicubic": lambda: nn.Upsample(scale_factor=2, mode="bicubic"),
    "nearest to odd sizes": lambda: nn.Upsample((37, 16)),
    "nearest-exact to fewer": lambda: nn.Upsample((17, 16), mode="nearest-exact"),
    "bilinear by corners": lambda: nn.Upsample((47, 31), mode="bilinear", align_corners=True),
    "batch norm": lambda: nn.BatchNorm2d(3),
    "group norm": lambda: nn.GroupNorm(3, 3),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("ranks", [2, 3])
def test_bytes_of_other_layers_are_near_those_of_a_run(name, ranks):
    build = LAYERS[name]
    planned = graticule.plan(build, (2, 3, 24, 16), ranks, dtype=torch.float64)
    whole = torch.randn(2, 3, 24, 16, dtype=torch.float64)

    def body(domain: graticule.Domain) -> int:
        x = graticule.shard(whole, domain).requires_grad_()
        before = domain.bytes_sent
        build().double()(x).square().sum().backward()
        return domain.bytes_sent - before

    most = max(run_ranks(ranks, body))
    assert 0.9 * most < planned.bytes < 2 * most
