"""Every layer against its serial one over its option space."""

import collections

import pytest

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


@pytest.mark.parametrize("layer", AXES)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_layer_is_exact(layer, summary):
    counts = collections.Counter()
    worst = 0.0
    wrong = []
    for case in cases(layer):
        verdict = run_case(layer, case)
        counts[verdict.kind] += 1
        if verdict.kind == "exact":
            worst = max(worst, verdict.worst)
        if verdict.kind == "wrong":
            wrong.append(f"{case}: {verdict.reason}")
    summary.append(
        f"{layer}: {sum(counts.values())} cases, {counts['exact']} exact, {counts['refused']} refused as the serial "
        f"layer refuses, {counts['declined']} declined as torch's own answer is wrong, {counts['wrong']} wrong; "
        f"worst error {worst:.2f} of the bound"
    )
    assert not wrong, f"{len(wrong)} wrong, the first: " + "\n".join(wrong[:10])
    # Most of the space is valid: a matrix of refusals would prove nothing.
    assert counts["exact"] > 0.5 * sum(counts.values())
