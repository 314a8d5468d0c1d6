"""Losses: the uncut value and the uncut gradient, for every reduction, of cut and of whole targets."""

import pytest
import torch
from torch.nn import functional as F

from tensor.comparison import Cut, compare

torch.manual_seed(0)
X = torch.randn(2, 4, 7, 5, dtype=torch.float64)
Y = torch.randn(2, 4, 7, 5, dtype=torch.float64)
P = torch.rand(2, 4, 7, 5, dtype=torch.float64) * 0.8 + 0.1
SIGNS = torch.where(Y > 0, 1.0, -1.0).double()
CLASSES = torch.randint(0, 4, (2, 7, 5))
CLASSES[0, 2, :2] = -100
REDUCTIONS = ("none", "mean", "sum")


def in_all_reductions(loss, **options):
    return lambda x, y: [loss(x, y, reduction=r, **options) for r in REDUCTIONS]


def of_cut_and_whole(function, x, y, dim=-2, target_dim=None, **options):
    compare(function, Cut(x, dim), Cut(y, dim if target_dim is None else target_dim), **options)
    compare(function, Cut(x, dim), y, **options)


@pytest.mark.parametrize(
    "loss",
    [
        F.mse_loss,
        F.l1_loss,
        F.smooth_l1_loss,
        lambda x, y, reduction: F.smooth_l1_loss(x, y, reduction=reduction, beta=0.3),
        F.huber_loss,
        lambda x, y, reduction: F.huber_loss(x, y, reduction=reduction, delta=0.4),
    ],
)
def test_regression(loss):
    of_cut_and_whole(in_all_reductions(loss), X, Y)
    compare(in_all_reductions(loss), X, Cut(Y))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_targets_that_broadcast():
    compare(in_all_reductions(F.mse_loss), Cut(X), torch.randn(7, 5, dtype=torch.float64))


def test_cut_otherwise():
    compare(in_all_reductions(F.mse_loss), Cut(X, 2), Cut(Y, 3))
    compare(in_all_reductions(F.mse_loss), Cut(X, 0), Cut(Y, 0))


def test_binary_cross_entropy():
    rows, longitudes = torch.rand(7, 1).double(), torch.rand(5).double() + 1

    def function(x, y):
        logits = F.binary_cross_entropy_with_logits
        results = []
        for r in REDUCTIONS:
            results += [F.binary_cross_entropy(x, y, reduction=r), F.binary_cross_entropy(x, y, rows, reduction=r)]
            results += [logits(x, y, reduction=r), logits(x, y, rows, pos_weight=longitudes, reduction=r)]
        return results

    of_cut_and_whole(function, P, P.flip(0).contiguous())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y, reduction: F.kl_div(x.log(), y, reduction=reduction),
        lambda x, y, reduction: F.kl_div(x.log(), y.log(), reduction=reduction, log_target=True),
        lambda x, y, reduction: F.gaussian_nll_loss(x, y, y.detach() + 0.1, full=True, reduction=reduction),
        lambda x, y, reduction: F.poisson_nll_loss(x, y, reduction=reduction),
        lambda x, y, reduction: F.poisson_nll_loss(x, y, log_input=False, full=True, reduction=reduction),
    ],
)
def test_of_distributions(loss):
    of_cut_and_whole(in_all_reductions(loss), P, P.flip(0).contiguous())
    compare(lambda x, y: F.kl_div(x.log(), y, reduction="batchmean"), Cut(P), Cut(P.flip(0).contiguous()))


def test_margins():
    signs = SIGNS.clone()
    compare(
        in_all_reductions(lambda x, y, reduction: F.soft_margin_loss(x, y.detach(), reduction=reduction)),
        Cut(X),
        Cut(Y),
    )
    for r in REDUCTIONS:
        compare(lambda x, r=r: F.hinge_embedding_loss(x, signs, reduction=r), Cut(X))
        compare(lambda x, y, r=r: F.margin_ranking_loss(x, y, signs, 0.1, reduction=r), Cut(X), Cut(Y))
        compare(
            lambda x, y, r=r: F.multilabel_soft_margin_loss(x, y, reduction=r), Cut(P, 2), Cut(P.flip(0)), gathers=True
        )
        compare(lambda x, y, r=r: F.triplet_margin_loss(x, y, x.flip(0) + 1, reduction=r), Cut(X), Cut(Y))


def test_similarities():
    for d in (1, 2, 3):
        compare(lambda x, y, d=d: F.cosine_similarity(x, y, d), Cut(X), Cut(Y))
        compare(lambda x, y, d=d: F.cosine_similarity(x, y, d).mean(), Cut(X), Y)
    for p in (1, 2, 3):
        compare(lambda x, y, p=p: F.pairwise_distance(x, y, p), Cut(X), Cut(Y))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dim", [0, 2, 3])
def test_cross_entropy(reduction, dim):
    weight = torch.rand(4, dtype=torch.float64) + 0.5
    target_dim = dim if dim == 0 else dim - 1

    def function(x, classes):
        return [
            F.cross_entropy(x, classes, reduction=reduction),
            F.cross_entropy(x, classes, weight, reduction=reduction),
            F.cross_entropy(x, classes.clamp(min=0), ignore_index=2, reduction=reduction),
            F.cross_entropy(x, classes, label_smoothing=0.1, reduction=reduction),
            F.nll_loss(x, classes, weight, reduction=reduction),
        ]

    of_cut_and_whole(function, X, CLASSES, dim, target_dim)
    compare(function, X, Cut(CLASSES, target_dim))


def test_label_smoothing_with_weights():
    weight = torch.rand(4, dtype=torch.float64) + 0.5
    for r in REDUCTIONS:
        compare(
            lambda x, c, r=r: F.cross_entropy(x, c, weight, label_smoothing=0.1, reduction=r),
            Cut(X),
            Cut(CLASSES, 1),
            gathers=True,
        )


def test_cross_entropy_with_probabilities():
    compare(
        lambda x, p: [F.cross_entropy(x, p, reduction=r, label_smoothing=0.1) for r in REDUCTIONS],
        Cut(X),
        Cut(P.softmax(1)),
    )


def test_cross_entropy_of_other_dimensions():
    flat, classes = torch.randn(9, 4, dtype=torch.float64), torch.randint(0, 4, (9,))
    compare(in_all_reductions(F.cross_entropy), Cut(flat, 0), Cut(classes, 0))
    compare(in_all_reductions(F.cross_entropy), Cut(flat, 1), classes, gathers=True)
    line, classes = torch.randn(2, 4, 7, dtype=torch.float64), torch.randint(0, 4, (2, 7))
    compare(in_all_reductions(F.cross_entropy), Cut(line, 2), Cut(classes, 1))
    volume, classes = torch.randn(2, 4, 3, 7, 2, dtype=torch.float64), torch.randint(0, 4, (2, 3, 7, 2))
    compare(in_all_reductions(F.cross_entropy), Cut(volume, 3), Cut(classes, 2))


def test_everything_ignored():
    ignored = torch.full((2, 7, 5), -100)
    compare(
        lambda x, c: [F.cross_entropy(x, c), F.cross_entropy(x, c, reduction="sum")],
        Cut(X),
        Cut(ignored, 1),
        gradients=False,
    )


def test_ctc():
    scores = torch.randn(8, 2, 5, dtype=torch.float64)
    lengths = torch.full((2,), 8), torch.full((2,), 3)
    compare(
        lambda x: F.ctc_loss(x.log_softmax(-1), torch.ones(2, 3, dtype=torch.int64), *lengths),
        Cut(scores, 0),
        gathers=True,
    )


def test_cross_entropy_of_flattened_rows():
    compare(
        lambda x, c: F.cross_entropy(x.permute(0, 2, 3, 1).reshape(-1, 4), c.reshape(-1)),
        Cut(X),
        Cut(CLASSES, 1),
    )
    compare(lambda x: F.cross_entropy(x.permute(0, 2, 3, 1).reshape(-1, 4), CLASSES.reshape(-1)), Cut(X))


@pytest.mark.parametrize("labels", [[0, 1, -1, 2], [1, 1, 2, -1], [-1, 0, 1, 2], [3, 2, 1, 0]])
@pytest.mark.parametrize("dim", [0, 1])
def test_multilabel_margin_ends_at_the_first_negative_label(labels, dim):
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.tensor([labels] * 6)
    compare(lambda x: F.multilabel_margin_loss(x, y), Cut(x, dim), ranks=(1, 2), gathers=True)
    compare(lambda x: F.multilabel_margin_loss(x, y, reduction="none"), Cut(x, dim), ranks=(2,), gathers=True)
