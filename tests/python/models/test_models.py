"""Whole models by other people, unmodified: cut and uncut runs agree in all that comes out."""

import copy
import os
import pathlib
import subprocess
import sys

import pytest
import torch

pytest.importorskip("transformers", reason="make test-models installs the models")

from graticule.verification import Verification, verify
from models.builders import MODELS, Model, built
from support.ranks import run_ranks

RANKS = [int(number) for number in os.environ.get("GRATICULE_MODEL_RANKS", "2,3").split(",")]


@pytest.mark.parametrize("ranks", RANKS)
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
    assert not found[0].report.gathers, found[0].report


def test_random_numbers_are_those_of_the_uncut_model():
    """Over processes: threads share torch's generator."""
    command = [sys.executable, "-m", "graticule", "verify", "models.builders:random_swin", "--ranks", "3"]
    found = subprocess.run(
        [*command, "--shape", "2,3,48,32"], cwd=pathlib.Path(__file__).parents[1], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout + found.stderr
