"""torch.compile of a model that is given cut tensors: exact, with parallelize and without, the step compiled too."""

import copy

import torch
import torch.distributed as dist
from torch import nn

import graticule
from graticule import Domain
from support.ranks import relative

BOUND = 1e-10


class Model(nn.Module):
    """With what a forward() spells by itself, and a part that sees plain tensors alone."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList([nn.GroupNorm(2, 8), nn.BatchNorm2d(8)])
        self.second = nn.Conv2d(8, 8, 3)
        self.gate = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 8))
        self.last = nn.ConvTranspose2d(8, 3, 2, 2)

    def forward(self, x):
        for norm in self.norms:
            x = norm(self.first(x) if x.shape[1] == 3 else x).relu()
        x = self.second(nn.functional.pad(x, (1, 1, 1, 1), mode="circular"))
        x = x * self.gate(x.mean((-2, -1)))[..., None, None]
        x = nn.functional.interpolate(x, scale_factor=0.5, mode="bilinear")
        return self.last(x.roll(1, -1))


def train(model, step, inputs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for x in inputs:
        optimizer.zero_grad()
        losses.append(step(model, x).detach())
        optimizer.step()
    return torch.stack(losses)


def forward_and_backward(model, x):
    loss = model(x).square().mean()
    loss.backward()
    return loss


def main():
    domain = Domain.from_env()
    torch.manual_seed(0)
    original = Model().double()
    inputs = [torch.randn(2, 3, rows, 6, dtype=torch.float64) for rows in (9, 9, 13)]
    serial = copy.deepcopy(original)
    expected = train(serial, forward_and_backward, inputs)
    cut = [graticule.shard(x, domain, dim=-2) for x in inputs]
    for parallel in (False, True):
        for whole_step in (False, True):
            torch._dynamo.reset()
            model = copy.deepcopy(original)
            if parallel:
                graticule.parallelize(model, domain)
            if whole_step:
                found = train(model, torch.compile(forward_and_backward), cut)
            else:
                found = train(model, lambda m, x: forward_and_backward(torch.compile(m), x), cut)
            what = f"parallel {parallel}, whole step {whole_step}"
            assert relative(found, expected) < BOUND, what
            for (name, p), q in zip(model.named_parameters(), serial.parameters(), strict=True):
                assert relative(p.detach(), q.detach()) < BOUND, f"{what}: {name}"
    try:
        torch.compile(original, fullgraph=True)(cut[0])
    except RuntimeError as error:
        assert "fullgraph=True" in str(error) or "DomainTensor" in str(error), error
    else:
        raise AssertionError("nothing said that a graph is broken")
    if domain.rank == 0:
        print("exact", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
