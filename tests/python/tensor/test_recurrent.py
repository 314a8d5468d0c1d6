"""Recurrent layers on cut tensors."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tensor.comparison import Cut, compare


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("batch_first", [False, True])
def test_recurrent_layers_over_a_dimension_that_is_not_cut(kind: Any, batch_first: bool) -> None:
    torch.manual_seed(0)
    layer = kind(4, 5, batch_first=batch_first).double()
    x = torch.randn(7, 6, 4, dtype=torch.float64)
    names, parameters = zip(*layer.named_parameters(), strict=True)

    # Ranks are threads: each calls a layer of its own.
    def run(x: Tensor, *given: Tensor) -> Tensor:
        return torch.func.functional_call(copy.deepcopy(layer), dict(zip(names, given, strict=True)), (x,))[0]

    compare(run, Cut(x, 0 if batch_first else 1), *(p.detach() for p in parameters), ranks=(1, 3))


@pytest.mark.parametrize("both_ways", [False, True])
def test_packed_sequences(both_ways: bool) -> None:
    torch.manual_seed(0)
    layer = nn.LSTM(4, 3, bidirectional=both_ways).double()
    x = torch.randn(5, 2, 4, dtype=torch.float64)

    def function(x: Tensor) -> Tensor:
        return copy.deepcopy(layer)(nn.utils.rnn.pack_padded_sequence(x, [5, 3]))[0].data

    compare(function, Cut(x, 2), gathers=True)
