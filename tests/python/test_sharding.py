"""Shards, halos and the sum of gradients."""

import pytest
import torch
from torch import nn

from graticule.domain_parallel import (
    DomainParallelConv1d,
    DomainParallelConv2d,
    DomainParallelConvTranspose2d,
    HaloExchange,
    gather_tensor,
    shard_batch,
    shard_tensor,
    sync_domain_gradients,
)
from support.ranks import balanced, own_rows, relative, run_ranks

SIZES = [(12, 3), (13, 3), (37, 4), (36, 4), (2, 5), (1, 3), (721, 8), (5, 1)]


@pytest.mark.parametrize("rows,ranks", SIZES)
@pytest.mark.parametrize("dim", [2, -1])
def test_shards_are_the_balanced_rows(rows, ranks, dim):
    shape = [2, 3, 4, 5]
    shape[dim] = rows
    x = torch.randn(shape)
    parts = run_ranks(ranks, lambda domain: shard_tensor(x, dim, domain))
    assert [part.shape[dim] for part in parts] == [(r + 1) * rows // ranks - r * rows // ranks for r in range(ranks)]
    assert torch.equal(torch.cat(parts, dim), x)


def test_the_rows_of_36_and_37_on_four_ranks():
    for rows, expected in [(36, [9, 9, 9, 9]), (37, [9, 9, 9, 10])]:
        x = torch.zeros(1, 1, rows, 2)
        assert run_ranks(4, lambda domain, x=x: shard_tensor(x, manager=domain).shape[2]) == expected


@pytest.mark.parametrize("rows,ranks", SIZES)
def test_gather_is_the_inverse_on_every_rank(rows, ranks):
    x = torch.randn(2, 3, rows, 4)
    for whole in run_ranks(ranks, lambda domain: gather_tensor(shard_tensor(x, manager=domain), manager=domain)):
        assert torch.equal(whole, x)


def test_gather_takes_shards_of_any_sizes():
    x = torch.randn(1, 2, 11, 3)
    offsets = [0, 0, 7, 7, 11]

    def body(domain):
        return gather_tensor(own_rows(x, 2, domain, offsets), 2, domain)

    assert all(torch.equal(whole, x) for whole in run_ranks(4, body))


@pytest.mark.parametrize("rows,ranks", [(13, 3), (2, 5), (7, 1)])
def test_gradients_of_shard_and_gather(rows, ranks):
    """Shard: the gradient of the rank's own rows. Gather: the sum of what every rank has for a row."""
    torch.manual_seed(0)
    x = torch.randn(1, 2, rows, 3, dtype=torch.float64)
    weights = torch.randn(ranks, *x.shape, dtype=torch.float64)

    def body(domain):
        whole = x.clone().requires_grad_()
        own = shard_tensor(whole, manager=domain)
        (gather_tensor(own.square(), manager=domain) * weights[domain.rank]).sum().backward()
        return whole.grad

    gradients = run_ranks(ranks, body)
    assert relative(sum(gradients), 2 * x * weights.sum(0)) < 1e-14
    offsets = balanced(rows, ranks)
    for rank, gradient in enumerate(gradients):
        elsewhere = gradient.clone()
        elsewhere[:, :, offsets[rank] : offsets[rank + 1]] = 0
        assert not elsewhere.any()


def test_shards_keep_the_memory_format():
    for x, layout in [
        (torch.randn(2, 3, 8, 5), torch.channels_last),
        (torch.randn(2, 3, 2, 8, 5), torch.channels_last_3d),
    ]:
        for part in run_ranks(2, lambda d, x=x, m=layout: shard_tensor(x.to(memory_format=m), manager=d)):
            assert part.is_contiguous(memory_format=layout)
        assert all(part.is_contiguous() for part in run_ranks(2, lambda d, x=x: shard_tensor(x, manager=d)))


def test_a_batch_of_tensors_and_more():
    batch = {
        "fields": torch.randn(2, 3, 9, 4),
        "levels": torch.randn(2, 3, 5, 9, 4),
        "time": torch.randn(2),
        "name": "a",
    }

    def body(domain):
        sharded = shard_batch(batch, manager=domain)
        assert sharded["time"] is batch["time"] and sharded["name"] == "a"
        return sharded

    parts = run_ranks(2, body)
    assert [p["fields"].shape[2] for p in parts] == [4, 5]
    assert [p["levels"].shape[3] for p in parts] == [4, 5]
    assert torch.equal(torch.cat([p["levels"] for p in parts], 3), batch["levels"])


def test_without_a_domain_nothing_is_cut():
    x = torch.randn(1, 1, 4, 4)
    assert shard_tensor(x) is x and gather_tensor(x) is x
    assert HaloExchange(2)(x) is x
    sync_domain_gradients(nn.Linear(2, 2))
    assert run_ranks(1, lambda domain: shard_tensor(x, manager=domain) is x) == [True]


@pytest.mark.parametrize("width", [0, 1, 3, 9])
@pytest.mark.parametrize("offsets", [[0, 4, 8, 12], [0, 1, 1, 12], [0, 5, 12, 12]])
def test_halos_of_any_width(width, offsets):
    x = torch.randn(2, 3, 12, 4, dtype=torch.float64)
    padded = nn.functional.pad(x, (0, 0, width, width))
    weights = torch.randn_like(padded)

    def body(domain):
        mine = own_rows(x, 2, domain, offsets).clone().requires_grad_()
        halo = HaloExchange(width, domain=domain, rows=offsets)(mine)
        first, last = offsets[domain.rank], offsets[domain.rank + 1] + 2 * width
        (halo * weights[:, :, first:last]).sum().backward()
        trimmed = HaloExchange.trim(halo, width, width)
        assert torch.equal(trimmed, mine)
        return halo.detach(), mine.grad

    parts = run_ranks(3, body)
    gradient = torch.zeros_like(padded)
    for rank, (halo, _) in enumerate(parts):
        first, last = offsets[rank], offsets[rank + 1] + 2 * width
        assert torch.equal(halo, padded[:, :, first:last])
        gradient[:, :, first:last] += weights[:, :, first:last]
    expected = gradient[:, :, width : 12 + width]
    assert relative(torch.cat([g for _, g in parts], 2), expected) < 1e-14


def test_trim_takes_each_side_by_itself():
    x = torch.arange(10.0).reshape(1, 1, 10, 1)
    assert HaloExchange.trim(x, 2, 3).flatten().tolist() == [2, 3, 4, 5, 6]
    assert HaloExchange.trim(x, 0, 1, dim=2).shape[2] == 9


@pytest.mark.parametrize(
    "options,width",
    [
        ({"kernel_size": 3, "padding": 1}, 1),
        ({"kernel_size": 32, "stride": 2, "padding": 15}, 15),
        ({"kernel_size": 4, "stride": 4}, 0),
        ({"kernel_size": 1}, 0),
        ({"kernel_size": 3, "padding": 2, "dilation": 2}, 2),
        ({"kernel_size": 7, "padding": "same"}, 3),
    ],
)
def test_halo_widths(options, width):
    layer = DomainParallelConv2d(nn.Conv2d(1, 1, **options))
    assert layer.halo_exchange.halo_width == width


def test_halo_widths_follow_the_cut_dimension():
    conv = nn.Conv2d(1, 1, (3, 5), padding=(1, 2))
    assert DomainParallelConv2d(conv).halo_exchange.halo_width == 1
    assert DomainParallelConv2d(conv, shard_dim=-1).halo_exchange.halo_width == 2
    assert DomainParallelConv1d(nn.Conv1d(1, 1, 5, padding=2)).halo_exchange.halo_width == 2
    assert DomainParallelConvTranspose2d(nn.ConvTranspose2d(1, 1, 4, 2, 1)).halo_width == 1
    assert DomainParallelConvTranspose2d(nn.ConvTranspose2d(1, 1, 2, 2)).halo_width == 0


class TestGradientSums:
    """sync_domain_gradients."""

    @staticmethod
    def model(dtypes=(torch.float32,)):
        torch.manual_seed(0)
        return nn.ModuleList(nn.Linear(3, 2).to(dtype) for dtype in dtypes)

    def test_every_gradient_is_the_sum_over_the_ranks(self):
        def body(domain):
            model = self.model((torch.float32, torch.float64, torch.bfloat16, torch.float16))
            for i, p in enumerate(model.parameters()):
                p.grad = torch.full_like(p, (domain.rank + 1) * (i + 1))
            sync_domain_gradients(model, domain)
            return [p.grad for p in model.parameters()], [p.dtype for p in model.parameters()]

        for gradients, dtypes in run_ranks(3, body):
            for i, (gradient, dtype) in enumerate(zip(gradients, dtypes, strict=True)):
                assert gradient.dtype == dtype
                assert (gradient == 6 * (i + 1)).all()

    def test_half_types_are_added_in_float32(self):
        """256 + 1 + 1 is 258 in bfloat16 only where the sum is not rounded to 256 on the way."""

        def body(domain):
            model = self.model((torch.bfloat16,))
            for p in model.parameters():
                p.grad = torch.full_like(p, 256.0 if domain.rank == 0 else 1.0)
            sync_domain_gradients(model, domain)
            return [p.grad for p in model.parameters()]

        for gradients in run_ranks(3, body):
            assert all((g == 258).all() for g in gradients)

    def test_a_gradient_on_some_ranks_only(self):
        def body(domain):
            model = self.model((torch.float32, torch.float32))
            if domain.rank == 1:
                model[0].weight.grad = torch.ones_like(model[0].weight)
            model[0].bias.requires_grad_(False)
            sync_domain_gradients(model, domain)
            return [p.grad for p in model.parameters()]

        for weight, frozen, other, other_bias in run_ranks(3, body):
            assert (weight == 1).all()
            assert frozen is None and other is None and other_bias is None

    def test_a_model_without_parameters_or_gradients(self):
        def body(domain):
            sync_domain_gradients(nn.ReLU(), domain)
            sync_domain_gradients(self.model(), domain)

        run_ranks(2, body)

    def test_more_than_one_bucket(self, monkeypatch):
        from graticule.domain_parallel import gradients as module

        monkeypatch.setattr(module, "_BUCKET_BYTES", 64)

        def body(domain):
            torch.manual_seed(domain.rank)
            model = nn.Sequential(*(nn.Linear(5, 4) for _ in range(6)))
            for p in model.parameters():
                p.grad = torch.randn_like(p)
            before = [p.grad.clone() for p in model.parameters()]
            sync_domain_gradients(model, domain)
            return before, [p.grad for p in model.parameters()]

        parts = run_ranks(2, body)
        for i, total in enumerate(parts[0][1]):
            assert torch.allclose(total, parts[0][0][i] + parts[1][0][i])
            assert torch.equal(total, parts[1][1][i])

    def test_a_large_gradient_is_reduced_by_the_transport(self):
        def body(domain):
            model = nn.Linear(200, 200, dtype=torch.float64)
            for p in model.parameters():
                p.grad = torch.full_like(p, domain.rank + 1.0)
            sync_domain_gradients(model, domain)
            return [p.grad for p in model.parameters()]

        for gradients in run_ranks(2, body):
            assert all((g == 3).all() for g in gradients)

    def test_the_same_bits_on_every_rank(self):
        def body(domain):
            torch.manual_seed(domain.rank)
            model = nn.Linear(7, 5)
            for p in model.parameters():
                p.grad = torch.randn_like(p)
            sync_domain_gradients(model, domain)
            return model.weight.grad

        first, *others = run_ranks(4, body)
        assert all(torch.equal(first, other) for other in others)
