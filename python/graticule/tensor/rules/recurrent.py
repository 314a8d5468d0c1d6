"""Above autograd: recurrent layers whose batch comes first, without the transpose in place that torch ends with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from graticule.tensor import functions


def _batch_second(layer: Callable[..., Any]) -> Callable[..., Any]:
    """torch's own of an input whose batch comes second."""  # noqa: D403

    def run(x: Tensor, *rest: Any) -> Any:
        # Of packed sequences no argument says which dimension is the batch.
        is_packed = not isinstance(rest[2], bool)
        if is_packed or not rest[-1]:
            return layer(x, *rest)
        y, *state = layer(x.transpose(0, 1), *rest[:-1], False)
        return y.transpose(0, 1), *state

    return run


for _layer in (torch.gru, torch.lstm, torch.rnn_tanh, torch.rnn_relu):
    functions.replaced[_layer] = _batch_second(_layer)
