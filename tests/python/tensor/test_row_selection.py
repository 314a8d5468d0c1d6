"""Row selection and joining where the cut dimension was merged with others, on any kind of number, of few rows."""

import pytest
import torch
from torch.nn import functional as F

from tensor.comparison import Cut, compare

torch.manual_seed(0)
X = torch.randn(2, 3, 8, 6, dtype=torch.float64)
Y = torch.randn(2, 3, 8, 6, dtype=torch.float64)
CHOSEN = torch.tensor([3, 0, 20, 1])


@pytest.mark.parametrize("dim", [2, 1])
def test_of_a_merged_dimension(dim):
    def function(x):
        y, z = x.flatten(2), x.flatten(1)
        w = x.transpose(1, 2).flatten(1, 2)
        return [
            y[:, :, 5:31] * 2,
            z[:, 7:100:3].sin(),
            w[:, 5:20] + 1,
            torch.cat([y, y[:, :, :4]], 2),
            torch.cat([z, z], 1) * 2,
            *(F.pad(y, (3, 2), mode=mode) for mode in ("constant", "reflect", "circular")),
            F.pad(z[:, None], (3, 2), mode="circular"),
            y.roll(5, 2) * z.roll(7, 1).view_as(y),
            z.flip(1) + 1,
            y[:, :, CHOSEN] * 2,
            z[:, CHOSEN] * 3,
            z[:, 5] * 2,
            w[:, :, 1:3] * w[:, :, :2],
            torch.stack([z, z], 1)[:, :, 3:] * 1,
            z.repeat(1, 2) * y.repeat(1, 1, 2).view(2, -1),
            torch.cat([y[:, :, :10], y[:, :, 10:]], 2),
            z.split(50, 1)[1] * 2,
        ]

    compare(function, Cut(X, dim), ranks=(1, 3))


def test_writes_into_a_merged_dimension():
    def function(x, y):
        z, v = x * 1, x * 1
        z.flatten(2)[:, :, 5:20] = y.flatten(2)[:, :, 7:22]
        z.flatten(2)[:, :, 3] = 1
        z.flatten(2).index_add_(2, CHOSEN, y.flatten(2)[:, :, :4])
        v.flatten(1)[:, CHOSEN] = y.flatten(1)[:, :4]
        return z * v

    compare(function, Cut(X), Cut(Y), ranks=(1, 3))


def every_kind(x):
    return [
        x[:, :, 1:5],
        x.roll(3, 2),
        x.flip(2),
        torch.cat([x, x[:, :, :2]], 2),
        F.pad(x, (1, 1, 2, 1)),
        x[:, :, CHOSEN % 8],
        x[:, :, 4],
        x.repeat(1, 1, 2, 1),
        torch.stack([x, x]),
        x.tril(),
    ]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.bfloat16, torch.complex128])
def test_kinds_of_numbers(dtype):
    compare(every_kind, Cut((X * 10).to(dtype)), gradients=False, ranks=(1, 3))


def test_layouts():
    def function(x):
        pads = [F.pad(x, (1, 1, 2, 1), mode=mode) for mode in ("reflect", "replicate", "circular")]
        return [t * 2 for t in (*every_kind(x), *pads)]

    compare(function, Cut(X.contiguous(memory_format=torch.channels_last)), ranks=(3,))
    compare(lambda x: function(x.permute(0, 1, 3, 2)), Cut(torch.randn(2, 3, 6, 8, dtype=torch.float64), 3), ranks=(3,))


def test_one_row_and_none():
    def one(x):
        return [
            x[:, :, :1] * 2,
            x.roll(1, 2) + x.flip(2),
            torch.cat([x, x], 2) * 2,
            F.pad(x, (0, 0, 2, 1), mode="replicate").sin(),
            F.pad(x, (0, 0, 1, 1), mode="circular").sin(),
            x.repeat(1, 1, 5, 1) * 2,
            x[:, :, 0] * x[:, :, [0, 0]][:, :, 1],
        ]

    def none(x):
        return [x[:, :, :1] + x.roll(1, 2) * x.flip(2), torch.cat([x, x], 2), F.pad(x, (1, 1, 2, 1)), x[:, :, []] * 1]

    compare(one, Cut(X[:, :, :1]))
    compare(none, Cut(X[:, :, :0]))


def test_on_four_ranks_in_a_row():
    def function(x):
        y = torch.cat([F.pad(x, (0, 0, 1, 0))[:, :, :-1], x.roll(1, 2)], 1)
        y = F.pad(F.pad(y, (0, 0, 5, 3)), (0, 0, -6, -1))
        return y.chunk(2, 1)[1][:, :, ::2].flip(2) * 2

    compare(function, Cut(X), ranks=(4,))
