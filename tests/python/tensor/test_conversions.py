"""A DomainTensor as something else."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graticule
from graticule import Domain
from support.ranks import failures, run_ranks
from tensor.comparison import Cut, compare

X = torch.arange(12.0).view(1, 6, 2)


def test_arrays_are_refused_with_a_way_out() -> None:
    def body(domain: Domain) -> None:
        x = graticule.shard(X, domain)
        with pytest.raises(TypeError, match=r"rank \d: expected a plain tensor.*\.local.*\.gather\(\)"):
            x.numpy()
        with pytest.raises(TypeError, match="expected a plain tensor"):
            np.asarray(x)

    run_ranks(2, body)


def test_lists_are_of_the_whole() -> None:
    assert run_ranks(3, lambda domain: graticule.shard(X, domain).tolist()) == [X.tolist()] * 3


def test_a_shallow_copy_shares_memory() -> None:
    def body(domain: Domain) -> Tensor:
        x = graticule.shard(X, domain)
        copy.copy(x).add_(1)
        return x.gather()

    for whole in run_ranks(2, body):
        assert torch.equal(whole, X + 1)


def test_the_gradient_of_scaled_embeddings_is_plain() -> None:
    indices = torch.randint(0, 9, (2, 7, 3), device="cpu", generator=torch.Generator().manual_seed(0))
    weight = torch.randn(9, 4, device="cpu", generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    compare(
        lambda i, w: nn.functional.embedding(i, w, scale_grad_by_freq=True),
        Cut(indices),
        weight,
        ranks=(2, 3),
        gathers=True,
    )


@pytest.mark.parametrize("function", [torch.from_dlpack, lambda x: x.apply_(abs)])
def test_what_would_read_the_memory_is_refused(function):
    found = failures(2, lambda domain: function(graticule.shard(torch.randn(4, 3), domain, dim=0)))
    assert len(found) == 2
    assert all(isinstance(error, TypeError) for error in found.values()), found


def test_data_is_taken_over() -> None:
    def body(domain: graticule.Domain) -> None:
        x = graticule.shard(X, domain, 1)
        x.data = x + 1
        assert torch.equal(x.gather(), X + 1)

    run_ranks(2, body)


def test_rows_among_others_are_copied_on_every_rank() -> None:
    """One row of other memory could be viewed where several cannot: a write would go through on one rank alone."""

    def body(domain: graticule.Domain) -> None:
        memory = torch.randn(3, 8, 5, dtype=torch.float64, device="cpu", generator=torch.Generator().manual_seed(0))
        own = memory.clone()[:, 1:2, 1:] if domain.rank == 0 else memory.clone()[:, 2:4, 1:]
        x = graticule.from_local(own, domain, dim=1)
        x.reshape(3, -1).mul_(2)
        whole = memory[:, 1:4, 1:].clone()
        whole.reshape(3, -1).mul_(2)
        assert torch.equal(x.gather(), whole)

    run_ranks(2, body)


def test_deep_copies_keep_what_torchs_keep():
    whole = torch.randn(2, 4, 12, 6, dtype=torch.float64)

    def body(domain):
        x = graticule.shard(whole, domain).requires_grad_()
        x.square().sum().backward()
        twin = copy.deepcopy(x)
        assert twin.is_leaf and twin.requires_grad and twin.grad is not x.grad
        assert torch.equal(twin.gather(), whole) and torch.equal(twin.grad.gather(), x.grad.gather())

        module = nn.Module()
        module.p = nn.Parameter(graticule.shard(whole, domain))
        other = copy.deepcopy(module)
        assert isinstance(other.p, nn.Parameter) and [name for name, _ in other.named_parameters()] == ["p"]
        with torch.no_grad():
            other.p.add_(1)
        assert torch.equal(module.p.gather(), whole)

        base = graticule.shard(whole, domain)
        twin, view = copy.deepcopy([base, base[..., 2:]])
        twin.zero_()
        assert not view.gather().any() and torch.equal(base.gather(), whole)

    run_ranks(3, body)


LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(2, 3, 5, 4), (2, 3, 2, 4), (2, 3, 1, 4), (2, 3, 2, 1), (2, 3, 2, 5, 4)])
@pytest.mark.parametrize("last", [False, True])
def test_the_gathered_whole_lies_in_memory_as_the_tensor_that_was_cut(ranks: int, sizes: tuple, last: bool) -> None:
    """Of two rows or one some ranks have too few to tell, or none."""
    whole = torch.randn(sizes, dtype=torch.float64)
    whole = whole.contiguous(memory_format=LAST[whole.dim()]) if last else whole
    weight = torch.randn_like(whole)

    def body(domain: Domain) -> tuple[Tensor, Tensor]:
        x = whole.clone().requires_grad_()
        gathered = graticule.shard(x, domain).gather()
        (gathered * weight).sum().backward()
        assert x.grad is not None
        return gathered.detach(), x.grad

    for gathered, gradient in run_ranks(ranks, body):
        assert gathered.stride() == whole.stride()
        assert torch.equal(gathered, whole)
        assert torch.equal(gradient, weight)


@pytest.mark.parametrize("rows", [(3, 2), (1, 1), (0, 1), (1, 4, 0), (2, 0, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_ranks_whose_rows_lie_otherwise_gather_alike(rows: tuple, channels: int) -> None:
    whole = torch.randn(2, channels, sum(rows), 4)

    def body(domain: Domain) -> Tensor:
        before = sum(rows[: domain.rank])
        own = whole[:, :, before : before + rows[domain.rank]].contiguous()
        if domain.rank % 2:
            own = own.contiguous(memory_format=torch.channels_last)
        return graticule.from_local(own, domain).gather()

    results = run_ranks(len(rows), body)
    for gathered in results:
        assert gathered.stride() == results[0].stride()
        assert torch.equal(gathered, whole)


def test_the_whole_of_what_a_channels_last_tensor_becomes_is_channels_last() -> None:
    conv = nn.Conv2d(3, 4, 3, padding=1)
    whole = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    expected = conv(whole)
    assert expected.is_contiguous(memory_format=torch.channels_last)
    for gathered in run_ranks(3, lambda domain: conv(graticule.shard(whole, domain)).gather()):
        assert gathered.stride() == expected.stride()
