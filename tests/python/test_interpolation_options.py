"""Sizes and scales of the interpolating layers, in every form that torch takes or refuses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graticule.domain_parallel import DomainParallelInterpolate, DomainParallelUpsample
from support.ranks import failures, own_rows, run_ranks

ODD_SIZES = [
    {"size": [7]},
    {"size": (7, 7, 7)},
    {"size": []},
    {"size": True},
    {"size": (True, 3)},
    {"size": "12"},
    {"size": 6.0},
    {"size": (6.0, 3)},
    {"size": torch.tensor(6.0)},
    {"size": np.array([6, 3])},
    {"size": range(5, 7)},
    {"size": torch.tensor(6)},
    {"size": torch.tensor([6])},
    {"size": (torch.tensor(6), 3)},
    {"size": np.int64(6)},
    {"size": (np.int64(6), np.int32(3))},
    {"size": torch.Size([6, 3])},
    {"scale_factor": [2.0]},
    {"scale_factor": (2,)},
    {"scale_factor": (2, 2, 2)},
    {"scale_factor": "2"},
    {"scale_factor": (2, "2")},
    {"scale_factor": torch.tensor(2.0)},
    {"scale_factor": 2},
    {"scale_factor": True},
    {"scale_factor": np.float32(0.7)},
    {"scale_factor": (np.float64(1.5), np.int64(2))},
    {"scale_factor": (np.float64(1.5), np.int64(2)), "recompute_scale_factor": True},
]


@pytest.mark.parametrize("options", ODD_SIZES, ids=str)
@pytest.mark.parametrize("name", ["DomainParallelInterpolate", "DomainParallelUpsample"])
def test_sizes_and_scales_are_taken_and_refused_as_torch_does(name, options):
    def module():
        up = nn.Upsample(2)
        for key, value in {"size": None, **options}.items():
            setattr(up, key, value)
        return up

    def layer(domain):
        if name == "DomainParallelUpsample":
            return DomainParallelUpsample(module(), domain=domain)
        return DomainParallelInterpolate(**{"size": None, "mode": "nearest", **options}, domain=domain)

    x = torch.randn(1, 3, 10, 8)
    try:
        expected = module()(x)
    except (TypeError, ValueError) as error:
        found = failures(2, lambda domain: layer(domain)(own_rows(x, 2, domain)))
        assert [type(other) for other in found.values()] == [type(error)] * 2, found
        assert all(str(other).startswith(f"{name}: expected") for other in found.values()), found
        return
    assert torch.equal(torch.cat(run_ranks(2, lambda domain: layer(domain)(own_rows(x, 2, domain))), 2), expected)


@pytest.mark.parametrize("options", [{"mode": "area"}, {"mode": "nearest", "recompute_scale_factor": True}], ids=str)
def test_a_scale_of_another_precision_is_refused_where_it_gives_the_size(options):
    """10 * np.float32(0.7) is 7 in single precision, and less than that in double."""
    scale = np.float32(0.7)
    assert F.interpolate(torch.zeros(1, 1, 10, 10), scale_factor=scale, **options).shape[2] == 7

    def body(domain):
        DomainParallelInterpolate(scale_factor=scale, domain=domain, **options)(torch.zeros(1, 1, 5, 10))

    found = failures(2, body)
    assert len(found) == 2 and all("scale factors that are Python numbers" in str(e) for e in found.values()), found
