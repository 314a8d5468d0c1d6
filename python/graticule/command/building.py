"""The model and the input that a command names."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import torch
from torch import Tensor, nn


def builder(name: str) -> Any:
    """What package.module:function names; modules of the working directory are found too."""
    module, _, path = name.partition(":")
    if not path:
        raise SystemExit(f"graticule: expected package.module:function, got {name}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise SystemExit(f"graticule: {name}: {error}") from error
    return found


def data_type(options: Any) -> torch.dtype:
    """The type of numbers that --dtype names."""
    found = getattr(torch, options.dtype, None)
    if not isinstance(found, torch.dtype):
        raise SystemExit(f"graticule: --dtype: expected a type such as float64, got {options.dtype}")
    return found


def model_and_inputs(options: Any) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The same on every rank: from the same seed."""
    torch.manual_seed(options.seed)
    model = builder(options.model)().to(data_type(options)).train(not options.eval)
    if getattr(options, "perturb", 0.0):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(options.perturb * torch.randn_like(p))
    return model, tuple(torch.randn(shape, dtype=data_type(options)) for shape in options.shapes)


def shown(shapes: list[list[int]]) -> str:
    """Sizes as the user gave them."""
    return " and ".join(",".join(map(str, shape)) for shape in shapes)
