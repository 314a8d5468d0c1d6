"""Calls of every op that PyTorch tests, by its own samples: with one tensor cut, or all alike, along each dimension.

Samples are those of torch.testing's list of ops. Tensors come dense, as a slice of a larger cut tensor, or transposed.
The table of docs/ops.md is of `python -m tensor.every_op --write`, run in tests/python.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import pathlib
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from support.ranks import RanksFailedError, balanced
from tensor.comparison import Cut, compare, serial, uneven
from tensor.ways import DIRECTLY, WAYS, Call, Way

DOCUMENT = pathlib.Path(__file__).parents[3] / "docs" / "ops.md"

# Other numbers each time, for which there is test_random.py, or none that mean anything.
WITHOUT_VALUES = set(
    "bernoulli normal multinomial uniform rand_like randn_like randint_like randint rand randn cauchy "
    "exponential geometric log_normal empty empty_like new_empty empty_strided new_empty_strided "
    "empty_permuted resize_ resize_as_ pca_lowrank svd_lowrank nn.functional.dropout nn.functional.dropout2d "
    "nn.functional.dropout3d nn.functional.alpha_dropout nn.functional.feature_alpha_dropout "
    "nn.functional.rrelu nn.functional.fractional_max_pool2d nn.functional.fractional_max_pool3d "
    "nn.functional.gumbel_softmax nn.functional.multi_head_attention_forward".split()
)
# functools.cached_property locks a class, to Python 3.11, while ranks, threads here, wait for each other.
ONE_THREAD_AT_A_TIME = {"nn.functional.linear_cross_entropy"}
# What the error must tell.
REFUSED = {
    "as_strided": "expected no storage offset for a view",
    "as_strided.partial_views": "expected no storage offset for a view",
    "as_strided_copy": "expected no storage offset for a view",
    "as_strided_scatter": "knows no memory beyond its own",
    # Where the gradient of the mean or of the deviation is asked for.
    "native_group_norm": "changes the shape of its argument in place",
    "sparse.mm.reduce": "Sparse",
    "sparse.sampled_addmm": "Sparse",
    "to_sparse": "Sparse",
}
# Uncut, torch refuses some tensors of other strides, or their gradients.
UNCUT_ERRORS = set(
    "view_as_complex as_strided.partial_views as_strided_scatter native_group_norm view view_as take_along_dim "
    "nn.functional.nll_loss nn.functional.max_unpool2d nn.functional.max_unpool2d.grad "
    "nn.functional.max_unpool3d nn.functional.max_unpool3d.grad".split()
)
OUTCOMES = ("exact", "gathers", "error")
# They give no tensor.
NO_TENSORS = {"item", "allclose", "equal"}


@dataclasses.dataclass
class Case:
    """One call: what compare() is given, and how it reads."""

    function: Callable[..., Any]
    arguments: list[Any]
    gradients: bool
    ranks: int
    offsets_of: Callable[[int, int], list[int]]
    what: str


def name_of(op: Any) -> str:
    return op.name + (f".{op.variant_test_name}" if op.variant_test_name else "")


def _ops() -> dict[str, Any]:
    # Its import forbids flags that support.device sets.
    from torch.testing._internal.common_methods_invocations import op_db

    left_out = WITHOUT_VALUES | ONE_THREAD_AT_A_TIME
    return {
        name_of(op): op for op in op_db if not (op.name in left_out or op.name.startswith(("torch.ops", "jiterator")))
    }


OPS = _ops()


def _dtype(op: Any) -> torch.dtype | None:
    return next((t for t in (torch.float64, torch.int64, torch.bool) if t in op.dtypes), None)


def _dense(t: Any) -> bool:
    return isinstance(t, Tensor) and t.layout is torch.strided


def samples(op: Any, most: int) -> list[tuple[int, Any]]:
    """At most so many of the op's samples, spread over all of them, with their numbers; half as many are among them."""
    dtype = _dtype(op)
    if dtype is None:
        return []
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        random.seed(0)
        gradients = op.supports_autograd and dtype is torch.float64
        found = list(itertools.islice(op.sample_inputs("cpu", dtype, requires_grad=gradients), 400))
    # The first tensor is the one that is cut.
    found = [s for s in found if _first(s) is not None and not s.kwargs.get("dropout_p")]
    chosen = range(len(found)) if len(found) <= most else [i * len(found) // most for i in range(most)]
    return [(i, found[i]) for i in chosen]


def _first(sample: Any) -> Tensor | None:
    leaves = pytree.tree_leaves((sample.input, sample.args, sample.kwargs))
    t = next((t for t in leaves if _dense(t)), None)
    return t if t is not None and t.dim() > 0 else None


def _real(t: Tensor) -> Tensor:
    return torch.view_as_real(t.resolve_conj()) if t.is_complex() else t


def _results(value: Any) -> list[Tensor]:
    return [_real(t) for t in pytree.tree_leaves(value) if _dense(t)]


LAYOUTS = ("dense", "a slice", "transposed")


def _cut_as(layout: str, dim: int, t: Tensor) -> tuple[Cut, Callable[[Any], Any]]:
    """A tensor to be cut that lies so in memory, and the function that makes the sample's of it."""
    if layout == "a slice":
        longer = torch.cat([t, t.narrow(dim, 0, min(1, t.shape[dim]))], dim)
        return Cut(longer, dim), lambda x: x.narrow(dim, 0, t.shape[dim])
    if layout == "transposed":
        return Cut(t.transpose(dim, 0).contiguous(), 0), lambda x: x.transpose(dim, 0)
    return Cut(t, dim), lambda x: x


def cases(op: Any, most: int, way: Way = DIRECTLY) -> Iterator[Case]:
    """Every cut of every sample; ranks, cuts and layouts in turns, by the sample's number."""
    call = way.call_of(op)
    for number, sample in samples(op, most) if call is not None else ():
        count = 5 * number
        leaves, spec = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
        places = [i for i, t in enumerate(leaves) if _dense(t)]
        first = leaves[places[0]]
        alike = [i for i in places if leaves[i].shape == first.shape]
        for dim in range(first.dim()):
            for cut in [places[:1], alike] if len(alike) > 1 else [places[:1]]:
                layout = LAYOUTS[count % 3]
                ranks, offsets_of = (2, 3, 1, 4)[count // 3 % 4], (balanced, uneven)[count % 2]
                count += 1
                what = f"sample {number}, {list(first.shape)} {layout}, dimension {dim} of {len(cut)} cut"
                function, arguments = _call_of(call, sample, places, cut, functools.partial(_cut_as, layout, dim))
                yield Case(function, arguments, way.gradients, ranks, offsets_of, what)


def _call_of(
    call: Call, sample: Any, places: list[int], cut: list[int], cut_as: Callable[[Tensor], tuple[Cut, Any]]
) -> tuple[Call, list[Any]]:
    """The sample's call as a function of its tensors, the leaves `places`, and these, `cut` ones among them as cut."""
    leaves, spec = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
    arguments: list[Any] = []
    makers: list[Callable[[Any], Any]] = []
    for i in places:
        given, make = cut_as(leaves[i].detach()) if i in cut else (leaves[i].detach(), lambda t: t)
        arguments.append(given)
        makers.append(make)
    wants_gradient = [leaves[i].requires_grad for i in places]

    def function(*given: Any) -> Any:
        values = list(leaves)
        extra = []
        for i, t, make, wanted in zip(places, given, makers, wants_gradient, strict=True):
            values[i] = make(t) if wanted else make(t.detach())
            # So that no gradient is zero but for rounding.
            extra += [_real(t * 1.5)] if wanted else []
        first, args, kwargs = pytree.tree_unflatten(values, spec)
        return [*_results(sample.output_process_fn_grad(call(first, *args, **kwargs))), *extra]

    return function, arguments


def can_be_compared(name: str, case: Case, way: Way) -> bool:
    """Whether the uncut call gives a tensor and its gradients. Any op but those named above must."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results, _ = serial(case.function, case.arguments, gradients=case.gradients)
    except (RuntimeError, TypeError):
        if name not in UNCUT_ERRORS and not way.may_fail:
            raise
        return False
    assert results or name in NO_TENSORS, name
    return bool(results)


def is_told(expected: str | None, case: Case, error: Exception) -> bool:
    """Whether it is the error that is expected, on every rank."""
    if expected is None or not isinstance(error, RanksFailedError):
        return False
    return len(error.errors) == case.ranks and all(expected in str(e) for e in error.errors.values())


def run(case: Case) -> str:
    """Compares the cut call with the uncut one: "exact", or "gathers" where it is but gathered. AssertionError else."""
    options: dict[str, Any] = {"ranks": [case.ranks], "cuts": [case.offsets_of], "bound": 1e-9}
    options["gradients"] = case.gradients
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gathered = compare(case.function, *case.arguments, gathers=True, **options)
    return "gathers" if gathered else "exact"


def outcome(name: str, most: int, way: Way = DIRECTLY) -> dict[str, int]:
    """How often calls of an op were exact, exact but gathered, or a clear error. AssertionError for anything else."""
    counts = dict.fromkeys(OUTCOMES, 0)
    for case in cases(OPS[name], most, way):
        if not can_be_compared(name, case, way):
            continue
        try:
            counts[run(case)] += 1
        except Exception as error:
            if not is_told(way.refused.get(name, REFUSED.get(name)), case, error):
                where = f"{name}: {case.what}, {case.ranks} ranks, {case.offsets_of.__name__}"
                raise AssertionError(f"{where}: {error}") from error
            counts["error"] += 1
    return counts


def table(outcomes: dict[str, dict[str, int]]) -> str:
    """One line an op."""
    lines = [
        "| op | calls | exact, nothing gathered | exact, gathered | an error |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, counts in sorted(outcomes.items()):
        total = sum(counts.values())
        if total:
            cells = [str(n) if n else "" for n in (counts["exact"], counts["gathers"], counts["error"])]
            lines.append(f"| `{name}` | {total} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sums(outcomes: dict[str, dict[str, int]]) -> str:
    """One sentence."""
    total = {kind: sum(counts[kind] for counts in outcomes.values()) for kind in OUTCOMES}
    ops = sum(any(counts.values()) for counts in outcomes.values())
    return (
        f"{ops} ops, {sum(total.values())} calls: {total['exact']} exact with nothing gathered, {total['gathers']} "
        f"exact and gathered, {total['error']} an error on every rank, none wrong"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=8, help="of each op")
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCUMENT.name}")
    given = parser.parse_args()
    torch.set_num_threads(1)
    outcomes = {name: outcome(name, given.samples) for name in OPS}
    text = table(outcomes)
    heads = [f"{sums(outcomes)}."]
    for how, way in WAYS.items():
        others = {name: outcome(name, -(-given.samples // 4), way) for name in OPS}
        heads.append(f"{how[0].upper()}{how[1:]}: {sums(others)}.")
    head = "\n\n".join(heads)
    if given.write:
        page = DOCUMENT.read_text()
        begin, end = "<!-- ops -->", "<!-- end -->"
        before, rest = page.split(begin, 1)
        DOCUMENT.write_text(f"{before}{begin}\n{head}\n\n{text}\n{end}{rest.split(end, 1)[1]}")
    print(head if given.write else f"{head}\n\n{text}")


if __name__ == "__main__":
    main()
