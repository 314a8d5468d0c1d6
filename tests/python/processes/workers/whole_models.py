"""Whole models on cut tensors, with what trains them: two cuts of the grid times two of the batch."""

import contextlib
import copy

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import graticule
from graticule import Domain
from support.device import DEVICE
from support.ranks import relative
from support.transport import share_devices

ROWS = 21
BATCH = 2
BOUND = 1e-10


class Attention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)

    def forward(self, x):
        q, k, v = self.qkv(x).flatten(2).transpose(1, 2).chunk(3, -1)
        y = nn.functional.scaled_dot_product_attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)).squeeze(1)
        return x + y.transpose(1, 2).unflatten(2, x.shape[2:])


class Model(nn.Module):
    """Convolutions, norms, attention and a squeeze, each used once or twice."""

    def __init__(self, checkpointing=None):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 8, 3, padding=1)) for _ in range(2)
        )
        self.squeeze = nn.Linear(8, 8)
        self.attention = Attention(8)
        self.last = nn.Conv2d(8, 3, 1)
        self.checkpointing = checkpointing

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            inner = block if self.checkpointing is None else self.checkpointed(block)
            x = x + inner(x)
        x = x * self.squeeze(x.mean((-2, -1))).sigmoid()[..., None, None]
        return self.last(self.attention(x))

    def checkpointed(self, block):
        return lambda x: checkpoint(block, x, use_reentrant=self.checkpointing == "reentrant")


def built(checkpointing=None):
    torch.manual_seed(0)
    return Model(checkpointing).to(DEVICE, torch.float64)


def data(step=0):
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(BATCH, 3, ROWS, 8, generator=generator, dtype=torch.float64).to(DEVICE) for _ in range(2)]


def loss_of(model, x, target):
    return nn.functional.mse_loss(model(x), target)


def trained(model, parts, steps=2, accumulate=1, context=contextlib.nullcontext):
    """A few steps of SGD; `parts` gives a step's input and target."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        for part in range(accumulate):
            with context():
                loss = loss_of(model, *parts(step * accumulate + part))
            (loss / accumulate).backward()
            losses.append(loss.detach())
        optimizer.step()
    return losses


def whole(p):
    return p.full_tensor() if isinstance(p, DTensor) else p


def check(model, serial, what, bound=BOUND):
    for (name, p), q in zip(model.named_parameters(), serial.parameters(), strict=True):
        error = relative(whole(p.detach()), q.detach())
        assert error <= bound, f"{what}: {name}: {error}"


class Grid:
    """The ranks: which part of the batch and of the rows this one has."""

    def __init__(self):
        self.mesh = init_device_mesh(DEVICE, (2, 2), mesh_dim_names=("batch", "latitude"))
        self.domain = Domain.of(self.mesh["latitude"])
        self.sample = self.mesh["batch"].get_local_rank()

    def parts(self, step):
        mine = [t[self.sample : self.sample + 1] for t in data(step)]
        return [graticule.shard(t, self.domain, dim=-2) for t in mine]

    def all_parts(self, step):
        return [graticule.shard(t, self.domain, dim=-2) for t in data(step)]


def with_ddp(grid):
    serial, model = built(), built()
    trained(serial, data)
    wrapped = DistributedDataParallel(model, process_group=grid.mesh["batch"].get_group())
    trained(wrapped, grid.parts)
    check(model, serial, "DDP")


def with_fsdp(grid):
    serial, model = built(), built()
    trained(serial, data)
    for block in model.blocks:
        fully_shard(block, mesh=grid.mesh["batch"])
    fully_shard(model, mesh=grid.mesh["batch"])
    trained(model, grid.parts)
    check(model, serial, "FSDP2")


def with_checkpointing(grid):
    serial = built()
    trained(serial, data)
    for kind in ("reentrant", "not reentrant"):
        model = built(kind)
        trained(model, grid.all_parts)
        check(model, serial, f"checkpointing, {kind}")


def with_accumulation(grid):
    serial, model = built(), built()
    trained(serial, data, accumulate=3)
    trained(model, grid.all_parts, accumulate=3)
    check(model, serial, "accumulation")


def with_autocast(grid):
    context = lambda: torch.autocast(DEVICE, torch.bfloat16)  # noqa: E731
    serial, model = built().float(), built().float()
    start = copy.deepcopy(serial)
    floats = lambda parts: lambda step: [t.float() for t in parts(step)]  # noqa: E731
    expected = trained(serial, floats(data), context=context)
    found = trained(model, floats(grid.all_parts), context=context)
    for a, b in zip(found, expected, strict=True):
        assert relative(a, b) < 2e-2, f"autocast: losses {found}, expected {expected}"
    for p, q, r in zip(model.parameters(), serial.parameters(), start.parameters(), strict=True):
        assert p.dtype == torch.float32
        assert relative(p.detach() - r.detach(), q.detach() - r.detach()) < 0.1, "autocast"


def with_average(grid):
    serial, model = built(), built()
    averages = []
    for one, parts in ((serial, data), (model, grid.all_parts)):
        average = torch.optim.swa_utils.AveragedModel(one, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
        for step in range(2):
            trained(one, lambda _, step=step, parts=parts: parts(step), steps=1)
            average.update_parameters(one)
        averages.append(average)
    check(averages[1], averages[0], "average")
    x = data()[0]
    y = averages[1](graticule.shard(x, grid.domain))
    assert relative(y.gather().detach(), averages[0](x).detach()) <= BOUND


def with_dtensors(grid):
    """Both ways, values and gradients, over even and uneven cuts."""
    mesh = grid.mesh["latitude"]
    for rows in (6, 7, 1):
        x = torch.randn(2, rows, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(DEVICE)
        leaf = x.clone().requires_grad_()
        weight = torch.arange(x.numel(), dtype=x.dtype, device=DEVICE).view(x.shape)

        there = graticule.to_dtensor(graticule.shard(leaf, grid.domain, dim=1), mesh)
        assert there.placements == (Shard(1),) and there.shape == x.shape
        assert torch.equal(there.full_tensor(), x)
        back = graticule.from_dtensor(there)
        assert torch.equal(back.gather(), x)
        (back * weight).sum().backward()
        assert torch.equal(leaf.grad, weight)

        sharded = distribute_tensor(x, mesh, [Shard(1)]).requires_grad_()
        (graticule.from_dtensor(sharded) * weight).sum().backward()
        assert torch.equal(sharded.grad.full_tensor(), weight)
    for refused in (distribute_tensor(x, mesh, [Replicate()]),):
        try:
            graticule.from_dtensor(refused)
        except ValueError as error:
            assert "expected one Shard" in str(error)
        else:
            raise AssertionError("a replicated DTensor was taken")


def with_domains(grid):
    everyone = Domain.from_env()
    assert (everyone.rank, everyone.size) == (dist.get_rank(), 4)
    assert (grid.domain.rank, grid.domain.size) == (grid.mesh["latitude"].get_local_rank(), 2)
    try:
        Domain.of(grid.mesh)
    except ValueError as error:
        assert "one dimension" in str(error)
    else:
        raise AssertionError("a mesh of two dimensions was taken")
    found = graticule.verify(built(), data()[0], grid.domain)
    assert found.exact, found


def with_linear_cross_entropy(grid):
    """It holds a lock of PyTorch's while it runs, which ranks of threads would wait for."""
    generator = torch.Generator().manual_seed(3)
    tokens, weight = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((11, 6), (5, 6)))
    classes = torch.randint(5, (11,), generator=generator)
    for reduction in ("mean", "sum"):
        gradients = []
        for cut in (False, True):
            given = [t.detach().to(DEVICE).requires_grad_() for t in (tokens, weight)]
            x, labels = given[0], classes.to(DEVICE)
            if cut:
                x, labels = (graticule.shard(t, grid.domain, dim=0) for t in (x, labels))
            loss = nn.functional.linear_cross_entropy(x, given[1], labels, reduction=reduction, label_smoothing=0.1)
            loss.backward()
            gradients.append([loss.detach(), *(t.grad for t in given)])
        for value, reference in zip(gradients[1], gradients[0], strict=True):
            assert relative(value, reference) <= BOUND, f"linear cross entropy, {reduction}"


TRIALS = (
    with_domains,
    with_dtensors,
    with_accumulation,
    with_checkpointing,
    with_average,
    with_autocast,
    with_ddp,
    with_fsdp,
    with_linear_cross_entropy,
)


def main():
    torch.set_num_threads(1)
    share_devices()
    Domain.from_env()
    grid = Grid()
    for trial in TRIALS:
        trial(grid)
        if dist.get_rank() == 0:
            print(trial.__name__, "exact", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
