"""The convolutions again, each of their two paths forced: which one a call takes must not show in its numbers."""

import collections

import pytest
import torch

from matrix.cases import cases
from matrix.compare import run_case

# Enough for every option value, and about two minutes; the whole matrix takes the paths as they come.
EVERY = 3


@pytest.fixture(params=["in_place", "whole_windows"])
def forced_path(request):
    torch.ops.graticule.force_convolution_path(request.param)
    yield request.param
    torch.ops.graticule.force_convolution_path("automatic")


@pytest.mark.parametrize("layer", ["conv", "conv_transpose", "periodic_conv"])
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_layer_is_exact_on_each_path(layer, forced_path):
    verdicts = collections.Counter()
    wrong = []
    for case in cases(layer)[::EVERY]:
        verdict = run_case(layer, case)
        verdicts[verdict.kind] += 1
        if verdict.kind == "wrong":
            wrong.append(f"{case}: {verdict.reason}")
    assert not wrong, f"{len(wrong)} wrong {forced_path}, the first: " + "\n".join(wrong[:10])
    assert verdicts["exact"] > 0.5 * sum(verdicts.values())


def test_a_path_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="automatic, in_place or whole_windows"):
        torch.ops.graticule.force_convolution_path("fastest")
