"""What a report tells: the module and line of each call, forward and backward."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import graticule
from support.ranks import run_ranks

torch.manual_seed(0)
X = torch.randn(1, 3, 9, 4, dtype=torch.float64)


class Block(nn.Module):
    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 3, 3, padding=1)
        self.checkpointed = checkpointed

    def inner(self, x):
        return self.second(self.first(x).roll(1, 2))

    def forward(self, x, scale=None):
        x = checkpoint(self.inner, x, use_reentrant=False) if self.checkpointed else self.inner(x)
        return x if scale is None else x * scale.sum(2, keepdim=True)


def called(model, differentiate=lambda y: y.square().mean().backward(), **keywords):
    """Module and op of all that moved, and whether in backward."""

    def body(domain):
        x = graticule.shard(X, domain).requires_grad_()
        given = {name: graticule.shard(X, domain).exp() * value for name, value in keywords.items()}
        with graticule.report(model=model) as report:
            y = model(x, **given)
            forward = len(report.calls)
            differentiate(y)
        return [
            [(c.module, c.op.split(".")[1]) for c in part] for part in (report.calls[:forward], report.calls[forward:])
        ]

    found = run_ranks(2, body)
    assert found[0] == found[1]
    return found[0]


def test_modules_of_both_passes():
    forward, backward = called(nn.Sequential(Block(), nn.ReLU(), Block()).double())
    assert forward == [
        ("0.first", "convolution"),
        ("0", "roll"),
        ("0.second", "convolution"),
        ("2.first", "convolution"),
        ("2", "roll"),
        ("2.second", "convolution"),
    ]
    # The loss is no module's.
    assert backward[0][0] == ""
    of = {module for module, op in backward if op == "convolution_backward"}
    assert of == {"0.first", "0.second", "2.first", "2.second"}
    assert [module for module, op in backward if op == "roll"] == ["2", "0"]


def test_inputs_by_name_end_a_module():
    """What made them is not the module's."""
    _, backward = called(Block().double(), scale=1.5)
    assert {module for module, op in backward if op == "convolution_backward"} == {"first", "second"}
    assert {module for module, _ in backward} <= {"first", "second", "(model)", ""}


def test_modules_of_a_recomputed_block():
    _, backward = called(nn.Sequential(Block(checkpointed=True)).double())
    # The second's result is not needed again.
    assert [module for module, op in backward if op == "convolution"] == ["0.first"]
    assert {module for module, op in backward if op == "convolution_backward"} == {"0.first", "0.second"}


@pytest.mark.parametrize("create_graph", [False, True])
def test_other_ways_to_differentiate(create_graph):
    def differentiate(y):
        torch.autograd.grad(y.sum(), list(model.parameters()), create_graph=create_graph)

    model = Block().double()
    _, backward = called(model, differentiate)
    assert {module for module, op in backward if op == "convolution_backward"} == {"first", "second"}


def test_a_module_that_fails_leaves_no_name_behind():
    class Failing(nn.Module):
        def forward(self, x):
            raise ArithmeticError

    def body(domain):
        x = graticule.shard(X, domain)
        with graticule.report() as report:
            with pytest.raises(ArithmeticError):
                nn.Sequential(Failing())(x)
            x.roll(1, 2)
        return [call.module for call in report.calls]

    assert run_ranks(2, body) == [[""], [""]]


def test_bytes_are_those_of_this_rank():
    """Of ranks in one process each counts its own: one at an end has one neighbour, one inside two."""
    whole = torch.randn(1, 1, 9, 4, dtype=torch.float64)

    def body(domain):
        x = graticule.shard(whole, domain)
        with graticule.report() as found:
            torch.nn.functional.conv2d(x, torch.ones(1, 1, 3, 3, dtype=torch.float64), padding=1)
        return sum(call.bytes for call in found.calls)

    row = 4 * 8
    sent = run_ranks(3, body)
    assert sent[1] == sent[0] + sent[2] > 0
    assert sent[0] == sent[2] and sent[0] % row == 0


def moves_of(function, whole, dim, ranks):
    """What a function of a cut tensor moves, in order; the same on every rank."""

    def body(domain):
        with graticule.report() as report:
            function(graticule.shard(whole, domain, dim=dim))
        return [call.moved for call in report.calls]

    found = run_ranks(ranks, body)
    assert all(own == found[0] for own in found)
    return found[0]


def test_what_windows_and_attention_move():
    """No more than they need: whole windows nothing; strided ones come by batches, or keys go round, or heads come."""
    image = torch.randn(2, 12, 6, 4, dtype=torch.float64)
    tokens = torch.randn(1, 12, 12, dtype=torch.float64)

    def windows(x):
        return x.reshape(2, 4, 3, 6, 4).softmax(2)

    def strided(x):
        t = x.reshape(2, 4, 3, 6, 4).permute(0, 2, 3, 1, 4).reshape(36, 1, 4, 4)
        return nn.functional.scaled_dot_product_attention(t, t, t)

    def attention(heads):
        def function(x):
            q, k, v = x.view(1, 12, 3, heads, -1).permute(2, 0, 3, 1, 4)
            return nn.functional.scaled_dot_product_attention(q, k, v)

        return function

    assert moves_of(windows, image, 1, 2) == []
    assert moves_of(windows, image, 1, 3) == ["rows"]
    # Queries, keys, values and the output.
    assert moves_of(strided, image, 1, 2) == ["all-to-all"] * 4
    assert moves_of(attention(2), tokens, 1, 2) == ["all-to-all"] * 4
    # One head: keys and values of the two other ranks, together.
    assert moves_of(attention(1), tokens, 1, 3) == ["rows"] * 2
