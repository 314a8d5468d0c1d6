"""Runs a case serially and cut, and compares output, input gradient and summed parameter gradients."""

import contextlib
import copy
import dataclasses
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from matrix.cases import Case
from matrix.layers import Subject, build
from support.device import DEVICE
from support.ranks import RanksFailedError, balanced, relative, run_ranks

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
EPSILON = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


@dataclasses.dataclass
class Answer:
    """What a layer gives for one case."""

    outputs: list[Tensor]
    input_gradient: Tensor | None
    parameter_gradients: list[Tensor]
    # Largest values of the parts that were added up for each parameter gradient: each part is rounded once.
    part_sizes: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Verdict:
    """How a case ended: exact, refused (by both), declined (torch's own answer is known to be wrong), or wrong."""

    kind: str
    worst: float = 0.0
    reason: str = ""


def _laid_out(x: Tensor, layout: str) -> Tensor:
    if layout == "channels_last" and x.dim() in FORMATS:
        return x.contiguous(memory_format=FORMATS[x.dim()])
    if layout == "strided":
        return torch.stack([x, x], -1)[..., 0]
    return x.contiguous()


def _run(layer: Any, module: nn.Module, x: Tensor, gradients: list[Tensor] | None, case: Case) -> Answer:
    """One or two calls; with gradients, backward after the last."""
    call = case["call"]
    module.train(call != "eval")
    inputs = _laid_out(x, case["layout"]).detach().requires_grad_()
    given = inputs.squeeze(0) if call == "unbatched" else inputs
    with torch.set_grad_enabled(call != "no_grad"), torch.autocast(DEVICE, torch.bfloat16, enabled=call == "autocast"):
        outputs = [layer(given)]
        if call == "twice":
            outputs.append(layer(given * 2))
    if gradients is None or call == "no_grad":
        return Answer(outputs, None, [])
    sum((y.double() * g.double()).sum() for y, g in zip(outputs, gradients, strict=True)).backward()
    return Answer(
        [y.detach() for y in outputs],
        inputs.grad,
        [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()],
    )


def _output_cut(subject: Subject, y: Tensor, ranks: int) -> list[int]:
    return balanced(y.shape[subject.dim - len(subject.shape)], ranks)


def _cut_answer(
    subject: Subject, x: Tensor, gradients: list[Tensor] | None, case: Case, module: nn.Module, run: Callable
) -> list[Answer]:
    ranks = case["ranks"]
    offsets = balanced(x.shape[subject.dim], ranks)

    def body(domain: Any) -> Answer:
        own = copy.deepcopy(module)
        first, last = offsets[domain.rank], offsets[domain.rank + 1]
        mine = None
        if gradients is not None:
            place = subject.dim - len(subject.shape)
            mine = []
            for g in gradients:
                cut = _output_cut(subject, g, ranks)
                mine.append(g.narrow(place, cut[domain.rank], cut[domain.rank + 1] - cut[domain.rank]))
        rows = x.narrow(subject.dim, first, last - first)
        return _run(subject.cut(own, domain), own, rows, mine, case)

    return run(ranks, body)


def _combine(answers: list[Answer], subject: Subject) -> Answer:
    place = subject.dim - len(subject.shape)
    return Answer(
        [torch.cat(parts, place) for parts in zip(*(a.outputs for a in answers), strict=True)],
        None
        if answers[0].input_gradient is None
        else torch.cat([a.input_gradient for a in answers if a.input_gradient is not None], subject.dim),
        [
            torch.stack([p.double() for p in parts]).sum(0)
            for parts in zip(*(a.parameter_gradients for a in answers), strict=True)
        ],
        [
            sum(p.abs().max().item() for p in parts)
            for parts in zip(*(a.parameter_gradients for a in answers), strict=True)
        ],
    )


def _tensors(answer: Answer) -> list[tuple[str, Tensor]]:
    named = [(f"output {i}", y) for i, y in enumerate(answer.outputs)]
    if answer.input_gradient is not None:
        named.append(("input gradient", answer.input_gradient))
    return named + [(f"parameter gradient {i}", g) for i, g in enumerate(answer.parameter_gradients)]


def _memory_format(y: Tensor) -> str:
    if y.dim() in FORMATS and y.is_contiguous(memory_format=FORMATS[y.dim()]):
        return "either" if y.is_contiguous() else "channels_last"
    return "contiguous" if y.is_contiguous() else "neither"


def judge(serial: Answer, cut: Answer, exact: Answer, case_is_autocast: bool) -> Verdict:
    """The bounds: relative 1e-12 in float64; in narrower types against the float64 answer of the same numbers.

    float32: no farther from it than twice the serial layer, plus 1e-6. Half types: output and input gradient one
    rounding; parameter gradients, whose parts are rounded on their ranks and added in float32, one rounding of each
    part.
    """
    worst = 0.0
    parts = iter(cut.part_sizes)
    for (name, y), (_, s), (_, e) in zip(_tensors(cut), _tensors(serial), _tensors(exact), strict=True):
        if y.shape != s.shape:
            return Verdict("wrong", reason=f"{name}: shape {tuple(y.shape)}, serial {tuple(s.shape)}")
        if "parameter" not in name and y.dtype != s.dtype:
            return Verdict("wrong", reason=f"{name}: {y.dtype}, serial {s.dtype}")
        if s.dtype == torch.float64 and e.dtype == torch.float64 and torch.equal(s, e):
            error, bound = relative(y, s), 1e-12
        else:
            bits = EPSILON[torch.bfloat16 if case_is_autocast else s.dtype]
            rounding = 1e-6 if bits < 1e-5 else bits
            if "parameter" in name:
                rounding *= max(1.0, next(parts) / max(e.abs().max().item(), 1e-300))
            error, bound = relative(y, e), 2 * relative(s, e) + rounding
        worst = max(worst, error / bound)
        if error > bound:
            return Verdict("wrong", error, f"{name}: error {error:.3g} over {bound:.3g}")
    return Verdict("exact", worst)


def call_loses_format(call: str, rows: int) -> bool:
    return call == "unbatched" or (call == "twice" and rows == 0)


def _judge_formats(serial: Answer, answers: list[Answer], offsets: list[int], case: Case) -> Verdict:
    """Channels that come last stay last, even where padding makes the serial layer lose that."""
    for rank, answer in enumerate(answers):
        # What the test itself does to a shard of no rows leaves no format to keep.
        if call_loses_format(case["call"], offsets[rank + 1] - offsets[rank]):
            continue
        for y, s in zip(answer.outputs, serial.outputs, strict=True):
            formats = {_memory_format(y), _memory_format(s)}
            kept = case["layout"] == "channels_last" and _memory_format(y) == "channels_last"
            if y.numel() and "either" not in formats and len(formats) > 1 and not kept:
                return Verdict("wrong", reason=f"memory format {_memory_format(y)}, serial {_memory_format(s)}")
    return Verdict("exact")


@contextlib.contextmanager
def convolutions_take(path: str) -> Iterator[None]:
    """automatic, in_place or whole_windows: the path that a convolution takes where it can."""
    torch.ops.graticule.force_convolution_path(path)
    try:
        yield
    finally:
        torch.ops.graticule.force_convolution_path("automatic")


def run_case(layer: str, case: Case, run: Callable = run_ranks, paths: Sequence[str] = ("automatic",)) -> Verdict:
    """Judges one case: on each of the paths, beside one serial answer. `run` calls a function on every rank as
    run_ranks does.
    """
    seed = zlib.crc32(repr(sorted(case.items(), key=str)).encode())
    torch.manual_seed(seed)
    dtype = torch.float32 if case["call"] == "autocast" else getattr(torch, case["dtype"])
    subject = build(layer, case, seed)
    module = subject.module.to(DEVICE, dtype)
    shape = list(subject.shape)
    if case["call"] == "unbatched":
        if layer in ("group_norm", "interpolate"):
            case = {**case, "call": "plain"}
        else:
            shape[0] = 1
    x = torch.randn(shape, dtype=torch.float64).to(DEVICE, dtype)
    wide = copy.deepcopy(module).double()

    try:
        probe = _run(subject.serial, module, x, None, case)
        if any(y.numel() == 0 for y in probe.outputs):
            # Some of torch's kernels refuse to make an output of no elements and some do not.
            if case["ranks"] == 1:
                return Verdict("refused")
            raise ValueError("an output of no elements")
    except (RuntimeError, ValueError) as serial_error:
        try:
            _cut_answer(subject, x, None, case, module, run)
        except RanksFailedError as refusal:
            if len(refusal.errors) == case["ranks"]:
                return Verdict("refused")
            return Verdict("wrong", reason=f"refused on some ranks only: {refusal}")
        return Verdict("wrong", reason=f"the serial layer refuses ({serial_error}), the cut one does not")

    gradients = [torch.randn_like(y, dtype=torch.float64).to(y.dtype) for y in probe.outputs]
    module.zero_grad()
    try:
        serial = _run(subject.serial, module, x, gradients, case)
    except NotImplementedError:
        # Torch has this layer's forward in this dtype, not its backward.
        return run_case(layer, {**case, "call": "no_grad"}, run, paths)
    if dtype == torch.float64:
        exact = serial
    else:
        wide_subject = build(layer, case, seed)
        wide_subject.module.to(DEVICE).double().load_state_dict(wide.state_dict())
        plain = {**case, "call": "plain" if case["call"] == "autocast" else case["call"]}
        exact = _run(wide_subject.serial, wide_subject.module, x.double(), [g.double() for g in gradients], plain)
    offsets = balanced(x.shape[subject.dim], case["ranks"])
    worst = 0.0
    for path in paths:
        module.zero_grad()
        try:
            with convolutions_take(path):
                answers = _cut_answer(subject, x, gradients, case, module, run)
        except RanksFailedError as failure:
            if len(failure.errors) == case["ranks"] and "is wrong in PyTorch itself" in str(failure):
                return Verdict("declined")
            return Verdict("wrong", reason=f"{path}: {str(failure)[:400]}")
        verdict = judge(serial, _combine(answers, subject), exact, case["call"] == "autocast")
        if verdict.kind == "exact":
            worst = max(worst, verdict.worst)
            verdict = _judge_formats(serial, answers, offsets, case)
        if verdict.kind == "wrong":
            return dataclasses.replace(verdict, reason=f"{path}: {verdict.reason}")
    return Verdict("exact", worst)
