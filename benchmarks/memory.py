"""Peak memory of forward and backward, as PyTorch's allocator reports it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.prediction import strip_bytes
from benchmarks.processes import Processes
from benchmarks.shapes import Shape
from benchmarks.turns import Contender


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most bytes held at a time during `call`, beyond those held before it. Every tensor's allocation counts, in
    all of its threads; memory that a kernel takes past the allocator does not.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as events:
        kept = call()
    del kept
    held = peak = 0
    memory = [e for e in events.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(memory, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _peak(contender: Contender) -> int:
    contender.clear()

    def call() -> Any:
        y = contender.forward()
        torch.autograd.backward(y, contender.gradient)
        return y

    call()  # what is made once is not the call's
    contender.clear()
    peak = peak_bytes(call)
    contender.clear()
    return peak


def memory_record(shape: Shape, layout: str, contenders: dict[str, Contender], p: Processes) -> dict[str, Any]:
    """Peaks of the layer's own memory: output, saved tensors, gradients, scratch; input and output's gradient are the
    caller's. A rank's share of the serial layer is that of its rows; parameters' gradients are whole on every rank.
    """
    serial = _peak(contenders["serial"]) if p.rank == 0 else 0
    serial = int(p.meeting.largest(serial))
    cut = _peak(contenders["mpi"])
    local = _peak(contenders["local"])
    concat = _peak(contenders["concat"]) if "concat" in contenders else 0
    parameters = sum(t.nbytes for t in contenders["mpi"].parameters)
    own = ((p.rank + 1) * shape.rows // p.size - p.rank * shape.rows // p.size) / shape.rows
    share = (serial - parameters) * own + parameters
    strips = strip_bytes(shape, p.size, p.rank)
    ratio = p.meeting.largest(cut / (share + strips))
    return {
        "row": shape.name,
        "layout": layout,
        "serial_bytes": serial,
        "share_bytes": int(share),
        "strip_bytes": strips,
        "local_bytes": local,
        "graticule_bytes": cut,
        "concat_bytes": concat or "",
        "ratio": f"{ratio:.4f}",
    }
