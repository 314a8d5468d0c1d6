"""A model of every kind of layer on the geopotential of ERA-Interim: 241 rows from pole to pole."""

import copy
import os
import pathlib

import pytest
import torch
from torch import nn

from graticule import PeriodicConv2d
from graticule.domain_parallel import convert_to_domain_parallel, gather_tensor, shard_tensor, sync_domain_gradients
from support.netcdf import read_variable
from support.ranks import own_rows, relative, run_ranks

FILE = pathlib.Path(os.environ.get("GRATICULE_TEST_DATA", "/nonexistent")) / "eraint_uvz.nc"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="set GRATICULE_TEST_DATA to the folder of eraint_uvz.nc")


@pytest.fixture(scope="module")
def fields():
    """Geopotential (2 months, 3 levels, 241, 480), normalised level by level."""
    z = torch.from_numpy(read_variable(FILE, "z"))
    assert z.shape == (2, 3, 241, 480)
    # In m2/s2: no level of the file lies below the ground or above 25 km.
    assert 0 < z.min() and z.max() < 2.5e5
    return (z - z.mean((0, 2, 3), keepdim=True)) / z.std((0, 2, 3), keepdim=True)


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        PeriodicConv2d(3, 8, 3),
        nn.SiLU(),
        nn.Conv2d(8, 8, 4, stride=2, padding=1),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ConvTranspose2d(8, 8, (5, 4), stride=2, padding=1),
        nn.GroupNorm(4, 8),
        nn.SiLU(),
        nn.Conv2d(8, 3, 1),
    )


def training_step(network, now, later):
    """The sum of squares, so that the ranks' losses add up."""
    forecast = network(now)
    loss = (forecast - later).square().sum()
    loss.backward()
    return forecast.detach(), loss.detach()


def assert_as_near(value, serial, exact):
    """float64: equal to rounding. float32: no farther from the float64 answer than twice the serial one, plus 1e-6."""
    wide = serial.dtype == torch.float64
    assert relative(value, exact) <= (1e-12 if wide else 2 * relative(serial, exact) + 1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_a_step_on_real_fields_is_the_uncut_one(fields, ranks, dtype):
    plain = model().to(dtype)
    january, july = fields[:1].to(dtype), fields[1:].to(dtype)
    serial, exact = copy.deepcopy(plain), copy.deepcopy(plain).double()
    forecast, loss = training_step(serial, january, july)
    exact_forecast, exact_loss = training_step(exact, january.double(), july.double())
    assert forecast.shape == july.shape

    def body(domain):
        network = convert_to_domain_parallel(copy.deepcopy(plain), domain, rows=241)
        own, own_loss = training_step(network, shard_tensor(january, manager=domain), own_rows(july, 2, domain))
        sync_domain_gradients(network, domain)
        return gather_tensor(own, manager=domain), own_loss, [p.grad for p in network.parameters()]

    parts = run_ranks(ranks, body)
    assert_as_near(sum(part[1] for part in parts), loss, exact_loss)
    for whole, _, gradients in parts:
        assert_as_near(whole, forecast, exact_forecast)
        for gradient, p, q in zip(gradients, serial.parameters(), exact.parameters(), strict=True):
            assert_as_near(gradient, p.grad, q.grad)
