"""Every op that PyTorch tests itself, cut and uncut, beside what the documents tell of it."""

import os
import re

import pytest

from tensor.every_op import DOCUMENT, OPS, outcome
from tensor.ways import WAYS

SAMPLES = int(os.environ.get("GRATICULE_OP_SAMPLES", "2"))


@pytest.mark.parametrize("name", OPS)
def test_op(name):
    """And that it gathers only where the page says so."""
    counts = outcome(name, SAMPLES)
    line = re.search(
        rf"^\| `{re.escape(name)}` \| (\d+) \| (\d*) \| (\d*) \| (\d*) \|$", DOCUMENT.read_text(), re.MULTILINE
    )
    if any(counts.values()):
        assert line, f"{name} is not in {DOCUMENT.name}"
        for kind, told in zip(("exact", "gathers", "error"), line.groups()[1:], strict=True):
            assert not counts[kind] or told, f"{kind}: {counts[kind]} calls, none in {DOCUMENT.name}"


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", OPS)
def test_other_ways_to_call_it(name, how):
    outcome(name, -(-SAMPLES // 4), WAYS[how])
