"""Whole models by other people, unmodified: cut and uncut runs agree in all that comes out."""

import copy

import pytest
import torch

pytest.importorskip("transformers", reason="make test-models installs the models")

from graticule.verification import Verification, verify
from models.builders import MODELS, Model, built
from support.ranks import run_ranks

# What has no rule that fits: (model, op).
GATHERS: set[tuple[str, str]] = set()


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_exact(model: Model, ranks: int) -> None:
    original = built(model)
    x = torch.randn(*model.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found: list[Verification] = run_ranks(
        ranks, lambda domain: verify(copy.deepcopy(original), x, domain, dim=model.dim)
    )
    for result in found:
        assert result.exact, result
        assert result.bound == 1e-10
    gathered = {(model.name, call.op) for call in found[0].report.gathers}
    assert gathered <= GATHERS, found[0].report
