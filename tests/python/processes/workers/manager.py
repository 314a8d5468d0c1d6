"""The manager's groups and properties, in domains of a size given as argument; prints nothing but "well"."""

import sys

import torch
import torch.distributed as dist
from torch import nn

from graticule import Domain
from graticule.domain_parallel import (
    DomainParallelManager,
    convert_to_domain_parallel,
    gather_tensor,
    get_domain_parallel_manager,
    initialize_domain_parallel,
    shard_tensor,
    sync_domain_gradients,
)


def check_errors(world):
    for sizes, word in [((world + 1, 1), "expected world_size"), ((world, world + 1), "do not divide")]:
        try:
            DomainParallelManager(*sizes)
        except ValueError as error:
            assert word in str(error), error
        else:
            raise AssertionError(f"{sizes} is accepted")


def check_properties(manager, rank, world, size):
    assert manager.world_size == world and manager.domain_parallel_size == size
    assert manager.domain_world_size == size and manager.dp_world_size == world // size
    assert manager.data_parallel_size == world // size
    assert manager.domain_rank == rank % size and manager.dp_rank == rank // size
    assert manager.is_first_domain_rank == (rank % size == 0)
    assert manager.is_last_domain_rank == (rank % size == size - 1)
    assert manager.shard_dim == -2
    before, after = manager.neighbor_ranks()
    assert before == (None if rank % size == 0 else rank - 1)
    assert after == (None if rank % size == size - 1 else rank + 1)
    first = rank // size * size
    assert dist.get_process_group_ranks(manager.domain_group) == list(range(first, first + size))
    assert dist.get_process_group_ranks(manager.data_parallel_group) == list(range(rank % size, world, size))
    assert manager.domain == Domain.of(manager) == Domain.of(manager.domain_group)
    assert (manager.domain.rank, manager.domain.size) == (rank % size, size)
    assert Domain.of(manager.domain.group_name) == manager.domain


def check_step(manager):
    """Domains by data: a sample a domain; gradients summed over the domain, then averaged over the data."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 3, padding=1)).double()
    samples = torch.randn(manager.dp_world_size, 1, 2, 11, 5, dtype=torch.float64)
    serial = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 3, padding=1)).double()
    serial.load_state_dict(model.state_dict())
    expected = [serial(x) for x in samples]
    (sum(y.square().sum() for y in expected) / len(expected)).backward()

    # No manager is named: the process-wide one is used.
    convert_to_domain_parallel(model, None)
    y = model(shard_tensor(samples[manager.dp_rank]))
    y.square().sum().backward()
    sync_domain_gradients(model)
    whole = gather_tensor(y.detach())
    assert torch.allclose(whole, expected[manager.dp_rank], rtol=1e-12, atol=1e-12)
    for p, q in zip(model.parameters(), serial.parameters(), strict=True):
        dist.all_reduce(p.grad, group=manager.data_parallel_group)
        assert torch.allclose(p.grad / manager.dp_world_size, q.grad, rtol=1e-11, atol=1e-11)


def main():
    torch.set_num_threads(1)
    size = int(sys.argv[1])
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    assert get_domain_parallel_manager() is None
    check_errors(world)
    manager = initialize_domain_parallel(world, size)
    assert get_domain_parallel_manager() is manager
    check_properties(manager, rank, world, size)
    check_step(manager)
    dist.barrier()
    if rank == 0:
        print("well", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
