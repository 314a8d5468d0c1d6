"""What moved between ranks, and where in the model: graticule.report()."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import torch

from graticule.domain import Domain
from graticule.tensor import autograd_nodes
from graticule.tensor.carried import Carried


@dataclasses.dataclass
class Call:
    """One op that moved something: where it was called, what moved, how many bytes this rank sent, how long it took."""

    module: str
    op: str
    moved: str
    bytes: int
    milliseconds: float
    line: str


class _State(threading.local):
    def __init__(self) -> None:
        self.op: Any = ""
        self.modules: list[str] = []


_state = _State()
_reports: Carried[tuple[Report, ...]] = Carried("reports", ())


class GatherError(RuntimeError):
    """In a strict report: an op that has no rule for its arguments and would have gathered them."""


class Report:
    """The calls of one `with graticule.report()`, in their order."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.calls: list[Call] = []

    @property
    def gathers(self) -> list[Call]:
        """The calls that ran uncut on every rank, of whole tensors."""
        return [call for call in self.calls if call.moved == "GATHER"]

    @property
    def bytes(self) -> int:
        """Bytes that this rank sent."""
        return sum(call.bytes for call in self.calls)

    def __str__(self) -> str:
        header = ("module", "op", "moved", "bytes", "ms", "line")
        cells = [header] + [
            (c.module, c.op, c.moved, str(c.bytes), f"{c.milliseconds:.3f}", c.line) for c in self.calls
        ]
        spent = sum(c.milliseconds for c in self.calls)
        cells.append(("total", "", "", str(self.bytes), f"{spent:.3f}", ""))
        widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells
        )


@contextlib.contextmanager
def report(strict: bool = False, model: torch.nn.Module | None = None) -> Iterator[Report]:
    """Lists what every op on DomainTensors moves between ranks while it is open, on this rank's thread.

    Args:
        strict: an op that would gather whole tensors is a GatherError that names the line of the model's code, on every
            rank, before anything is sent.
        model: names the modules by their paths within it; without it modules go by their classes.

    """
    found = Report(strict)
    paths = {} if model is None else {id(module): path or "(model)" for path, module in model.named_modules()}

    # The hooks are the process's, the report is this thread's.
    def enter(module: torch.nn.Module, args: Any) -> None:
        if found in _reports.get():
            _state.modules.append(paths.get(id(module), type(module).__name__))

    def leave(module: torch.nn.Module, *call: Any) -> None:
        # Arguments, those by name, and the output; of a call that failed torch leaves the second out.
        if found in _reports.get() and _state.modules:
            autograd_nodes.name(call[:-1], call[-1], _state.modules.pop())

    before = torch.nn.modules.module.register_module_forward_pre_hook(enter)
    after = torch.nn.modules.module.register_module_forward_hook(leave, with_kwargs=True, always_call=True)
    _reports.set((*_reports.get(), found))
    try:
        yield found
    finally:
        _reports.set(tuple(other for other in _reports.get() if other is not found))
        before.remove()
        after.remove()


@contextlib.contextmanager
def move(kind: str, domain: Domain) -> Iterator[None]:
    """Records what the block sends over the domain, under the op at work."""
    reports = _reports.get()
    if not reports:
        yield
        return
    begun, sent = time.perf_counter(), domain.bytes_sent
    yield
    call = Call(
        (_state.modules[-1] if _state.modules else "") or autograd_nodes.current_name(),
        str(_state.op or "between ops"),
        kind,
        domain.bytes_sent - sent,
        1e3 * (time.perf_counter() - begun),
        _line_of_model(),
    )
    for found in reports:
        found.calls.append(call)


class operation:  # noqa: N801
    """The op at work within the block; ops that rules call count as theirs."""

    __slots__ = ("_op", "_before")

    def __init__(self, op: Any) -> None:
        self._op = op

    def __enter__(self) -> None:
        self._before = _state.op
        if not self._before:
            _state.op = self._op

    def __exit__(self, *error: object) -> None:
        _state.op = self._before


def refuse_gather(op: Any) -> None:
    """GatherError in a strict report."""
    if any(found.strict for found in _reports.get()):
        raise GatherError(f"{op}: no rule cuts this call, and the report is strict; called at {_line_of_model()}")


# By where they lie, not by name: a user's own folder may be called like one of them.
_LIBRARIES = (
    str(pathlib.Path(__file__).parents[1]) + os.sep,
    str(pathlib.Path(torch.__file__).parent) + os.sep,
    str(pathlib.Path(multiprocessing.__file__).parent) + os.sep,
)
_MODULES = str(pathlib.Path(torch.nn.__file__).parent / "modules") + os.sep


def _line_of_model() -> str:
    """The innermost line that is neither torch's nor this package's; where there is none, that of PyTorch's module."""
    frames = traceback.extract_stack()
    for frame in reversed(frames):
        name = frame.filename
        if not name.startswith(_LIBRARIES) and "<" not in name and "contextlib" not in name:
            return f"{name}:{frame.lineno}"
    if autograd_nodes.in_backward():
        return "the backward pass"
    modules = (f for f in reversed(frames) if f.filename.startswith(_MODULES) and f.name == "forward")
    return next((f"{frame.filename}:{frame.lineno}" for frame in modules), "")
