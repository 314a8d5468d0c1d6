"""What torch.compile leaves alone.

Compiled code would hold the sizes of one rank's rows, and what travels follows from the global shape. So a model that
is compiled runs as it would uncompiled wherever a DomainTensor is concerned; parts that see none are compiled.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch._C._dynamo.eval_frame import _FrameAction, _FrameExecStrategy, set_code_exec_strategy

_Function = TypeVar("_Function", bound=Callable[..., Any])


def eagerly(function: _Function) -> _Function:
    """Has torch.compile neither trace `function` nor compile what it calls.

    As torch.compiler.disable does, without the import of the compiler and at no cost a call.
    """
    code = inspect.unwrap(function).__code__
    set_code_exec_strategy(code, _FrameExecStrategy(_FrameAction.SKIP, _FrameAction.SKIP))
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    # What torch.compile(fullgraph=True) says of it.
    function._torchdynamo_disable_msg = "graticule runs what sees a DomainTensor uncompiled"  # type: ignore[attr-defined]
    return function


class EagerFunction(torch.autograd.Function):
    """A function with its own gradient, neither of which is compiled: a step that is compiled runs backward too."""

    def __init_subclass__(cls) -> None:
        """Marks what the class defines."""
        super().__init_subclass__()
        for name in ("forward", "backward"):
            if name in cls.__dict__:
                eagerly(cls.__dict__[name].__func__)
