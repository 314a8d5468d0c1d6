"""Every layer against its serial one over its option space; convolutions as they choose their path, and forced to each:
which one a call takes must not show in its numbers.
"""

import collections

import pytest
import torch

from matrix.cases import AXES, COUNTS, cases, pairs_in, pairs_of
from matrix.compare import run_case


def test_there_are_enough_cases():
    assert sum(COUNTS.values()) >= 5000


@pytest.mark.parametrize("layer", AXES)
def test_every_pair_of_option_values_occurs(layer):
    missing = pairs_of(layer)
    for case in cases(layer):
        missing.difference_update(pairs_in(case))
    assert not missing


CONVOLUTIONS = ["conv", "conv_transpose", "periodic_conv"]
# Each a test of its own, so that processes can share a layer's cases.
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("layer", AXES)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_layer_is_exact(layer, part, summary):
    paths = ["automatic", "in_place", "whole_windows"] if layer in CONVOLUTIONS else ["automatic"]
    counts = collections.Counter()
    worst = 0.0
    wrong = []
    for case in cases(layer)[part::PARTS]:
        verdict = run_case(layer, case, paths=paths)
        counts[verdict.kind] += 1
        if verdict.kind == "exact":
            worst = max(worst, verdict.worst)
        if verdict.kind == "wrong":
            wrong.append(f"{case}: {verdict.reason}")
    summary.append(
        f"{layer} {part + 1}/{PARTS}, path {', '.join(paths)}: {sum(counts.values())} cases, "
        f"{counts['exact']} exact, {counts['refused']} refused as the serial layer refuses, "
        f"{counts['declined']} declined as torch's own answer is wrong, {counts['wrong']} wrong; "
        f"worst error {worst:.2f} of the bound"
    )
    assert not wrong, f"{len(wrong)} wrong, the first: " + "\n".join(wrong[:10])
    # Most of the space is valid: a matrix of refusals would prove nothing.
    assert counts["exact"] > 0.5 * sum(counts.values())


def test_a_path_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="automatic, in_place or whole_windows"):
        torch.ops.graticule.force_convolution_path("fastest")
