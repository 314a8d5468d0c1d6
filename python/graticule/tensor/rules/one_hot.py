"""One-hot vectors, above autograd: of a tensor's subclass PyTorch does not look at the classes' range."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from graticule.tensor import functions
from graticule.tensor.domain_tensor import DomainTensor


def one_hot(tensor: Any, num_classes: int = -1) -> Tensor:
    """What torch.nn.functional.one_hot gives, with its errors, on every rank."""
    if isinstance(tensor, DomainTensor) and tensor.numel() > 0 and not (tensor.is_meta or tensor.is_floating_point()):
        if tensor.amin().item() < 0:
            raise RuntimeError("Class values must be non-negative.")
        most = int(tensor.amax().item())
        if num_classes == -1:
            num_classes = most + 1
        elif most >= num_classes:
            raise RuntimeError("Class values must be smaller than num_classes.")
    return F.one_hot(tensor, num_classes)


functions.replaced[F.one_hot] = one_hot
