"""Forty cases of the matrix a layer, over processes, and a step of a model on 37 rows."""

import copy
import warnings

import torch
from torch import nn

import graticule
from graticule import PeriodicConv2d
from graticule.domain_parallel import convert_to_domain_parallel, gather_tensor, sync_domain_gradients
from matrix.cases import AXES, cases
from matrix.compare import run_case
from support.device import DEVICE
from support.ranks import own_rows, relative
from support.transport import arguments, collect, domains, end, runner

CASES = 40
warnings.filterwarnings("ignore", "Using padding='same'")


def refused(case):
    """What the layers say of themselves that they cannot do on a GPU."""
    by_factor = isinstance(case.get("target"), float) and not case["recompute"]
    exact = case.get("mode", ("",))[0] == "nearest-exact" and case["layout"] != "contiguous"
    return DEVICE != "cpu" and by_factor and (exact or int(case["rows"] * case["target"]) == case["rows"])


def matrix(run, ranks):
    for layer in AXES:
        chosen = [{**case, "ranks": ranks} for case in cases(layer) if case["rows"] > 2 and not refused(case)][:CASES]
        verdicts = [run_case(layer, case, run) for case in chosen]
        for case, verdict in zip(chosen, verdicts, strict=True):
            assert verdict.kind != "wrong", f"{layer} {case}: {verdict.reason}"
        exact = sum(verdict.kind == "exact" for verdict in verdicts)
        assert exact > CASES // 2, f"{layer}: only {exact} of {CASES} cases are valid"


def model_step(domain):
    torch.manual_seed(0)
    plain = nn.Sequential(
        PeriodicConv2d(3, 8, 3),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        nn.Conv2d(8, 8, 4, 2, 1),
        nn.ConvTranspose2d(8, 3, 4, 2, 1),
    ).to(DEVICE, torch.float64)
    x = torch.randn(2, 3, 37, 8, dtype=torch.float64).to(DEVICE)
    serial = copy.deepcopy(plain)
    expected = serial(x)
    expected.square().sum().backward()

    model = convert_to_domain_parallel(plain, domain)
    y = model(own_rows(x, 2, domain))
    y.square().sum().backward()
    sync_domain_gradients(model, domain)
    assert relative(gather_tensor(y.detach(), manager=domain), expected.detach()) < 1e-12
    for p, q in zip(model.parameters(), serial.parameters(), strict=True):
        assert relative(p.grad, q.grad) < 1e-12


def large_sums(domain):
    """More than travels as messages, of types that no transport adds by itself."""
    torch.manual_seed(0)
    x = torch.randn(64, 6, 257, dtype=torch.complex64).to(DEVICE)
    assert relative(graticule.shard(x, domain, 1).sum(1).abs(), x.sum(1).abs()) < 1e-5
    weight = torch.randn(1000, 64, dtype=torch.bfloat16).to(DEVICE).requires_grad_()
    indices = torch.randint(1000, (6, 50)).to(DEVICE)
    nn.functional.embedding(graticule.shard(indices, domain, 0), weight).sum().backward()
    expected = torch.bincount(indices.flatten(), minlength=1000).unsqueeze(1).expand(1000, 64)
    assert relative(weight.grad, expected) < 1e-2


def main():
    transport = arguments()
    domain, reports = domains(transport, 2)
    matrix(runner(domain, reports), domain.size)
    model_step(domain)
    large_sums(domain)
    collect(reports, "done")
    if domain.rank == 0:
        print("exact", flush=True)
    end(transport)


if __name__ == "__main__":
    main()
