"""The parts of the benchmark that need no clock: statistics, predictions, the regression check, bars, documents."""

import dataclasses
import pathlib
import subprocess
import sys
import threading

import pytest
import torch

REPOSITORY = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

from benchmarks import bars, check, ratios, records, report, tables  # noqa: E402
from benchmarks.chart import ratios_chart  # noqa: E402
from benchmarks.concatenation import Neighbours, all_rows, concatenated_layer  # noqa: E402
from benchmarks.exactness import Reference, WrongResultError  # noqa: E402
from benchmarks.meeting import Meeting  # noqa: E402
from benchmarks.memory import peak_bytes  # noqa: E402
from benchmarks.modules import cut_layer, serial_layer  # noqa: E402
from benchmarks.prediction import Traffic, predicted, strip_bytes  # noqa: E402
from benchmarks.shapes import SHAPES, Scale, Shape, chosen  # noqa: E402
from benchmarks.traffic import counted, thin  # noqa: E402
from benchmarks.turns import Contender, order  # noqa: E402

from support.ranks import run_ranks  # noqa: E402

CONV = Shape("Conv2d 64->64 k3, 360x720", "conv", 64, 64, 360, 720, 3, 1, 1)
FACTS = {"row": CONV.name, "scale": "full", "layout": "contiguous", "mode": "forward+backward"}


def turns(**seconds: list[float]) -> list[dict]:
    return [
        {**FACTS, "contender": name, "iteration": i, "seconds": s}
        for name, values in seconds.items()
        for i, s in enumerate(values)
    ]


def layers(mpi: float = 1.01, gloo: float = 1.02, null: tuple[float, float] = (1.0, 1.0)) -> list[dict]:
    """Summaries of turns of those ratios to the local layer; the null row's quartiles are the two given."""
    low, high = null
    n = 4
    return ratios.summarise(
        turns(
            local=[1.0] * n,
            null=[low, low, high, high],
            serial=[1.1] * n,
            concat=[1.4] * n,
            mpi=[mpi] * n,
            gloo=[gloo] * n,
        )
    )


def test_quartiles():
    assert ratios.quartiles([5, 1, 3, 2, 4]) == (2, 3, 4)
    assert ratios.quartiles([7.0]) == (7, 7, 7)


def test_ratios_are_of_turns_of_the_same_iteration():
    """The machine gets slower by half: paired ratios do not see it."""
    found = {(r["contender"], r["base"]): r for r in ratios.summarise(turns(local=[1, 2, 4], mpi=[1.1, 2.2, 4.4]))}
    record = found["mpi", "local"]
    assert (record["ratio"], record["ratio_q1"], record["ratio_q3"]) == ("1.1000", "1.1000", "1.1000")
    assert (record["median_ms"], record["base_median_ms"], record["iterations"]) == ("2200", "2000", 3)
    assert ("serial", "local") not in found


def test_spread_is_how_far_the_null_row_lies_from_one():
    (null,) = (r for r in layers(null=(0.98, 1.01)) if r["contender"] == "null")
    assert ratios.spread(null) == pytest.approx(0.02)


def test_every_contender_comes_in_every_place_and_on_either_side_of_every_other():
    names = list("abcdef")
    orders = [order(names, i) for i in range(2 * len(names))]
    for name in names:
        assert {o.index(name) for o in orders} == set(range(len(names)))
    for o in orders:
        assert sorted(o) == names
    followed = {pair for o in orders for pair in zip(o, o[1:], strict=False)}
    assert ("a", "b") in followed and ("b", "a") in followed


def test_records_come_back(tmp_path):
    file = tmp_path / "folder" / "layers.csv"
    records.write(file, [{"a": 1, "b": "x, y"}, {"a": 2, "b": ""}])
    assert records.read(file) == [{"a": "1", "b": "x, y"}, {"a": "2", "b": ""}]
    assert records.read(tmp_path / "none.csv") == []


def test_check_passes_on_equal_data():
    stored = check.reference_of(layers())
    comparisons = check.compare(stored, stored)
    assert len(comparisons) == 2 and all(c["passes"] for c in comparisons)


def test_check_fails_on_a_planted_regression():
    comparisons = check.compare(check.reference_of(layers(mpi=1.08)), check.reference_of(layers()))
    assert [c["passes"] for c in comparisons] == [False, True]
    assert "WORSE" in check.table(comparisons)


def test_check_allows_for_the_noise_of_the_run():
    noisy = check.reference_of(layers(mpi=1.08, null=(0.97, 1.03)))
    assert all(c["passes"] for c in check.compare(noisy, check.reference_of(layers())))


def test_check_fails_where_a_stored_row_is_not_measured():
    stored = check.reference_of(layers())
    comparisons = check.compare(stored[:1], stored)
    assert [c["passes"] for c in comparisons] == [True, False]
    assert "MISSING" in check.table(comparisons)


@pytest.mark.parametrize(("mpi", "status"), [(1.01, 0), (1.2, 1)])
def test_check_as_a_program(tmp_path, mpi, status):
    def run(*arguments: str) -> int:
        return subprocess.run([sys.executable, "-m", "benchmarks.check", *arguments], cwd=REPOSITORY).returncode

    reference, now = tmp_path / "reference.csv", tmp_path / "layers.csv"
    records.write(now, layers())
    assert run(str(now), "--reference", str(reference)) == 2
    assert run(str(now), "--reference", str(reference), "--store") == 0
    records.write(now, layers(mpi=mpi))
    assert run(str(now), "--reference", str(reference)) == status


def test_bars():
    def met(**given) -> dict[str, bool]:
        return {b.name: b.met for b in bars.bars({"layers": layers(**given)})}

    over_mpi, over_gloo = (f"{CONV.name}, contiguous: graticule over {t} / local" for t in ("MPI", "Gloo"))
    concat = f"{CONV.name}, contiguous: concatenation / graticule"
    assert met() == {over_mpi: True, over_gloo: True, concat: True}
    assert met(mpi=1.04) == {over_mpi: False, over_gloo: True, concat: True}
    assert met(mpi=1.04, null=(0.98, 1.0))[over_mpi]
    assert not met(gloo=1.06)[over_gloo]
    assert not met(mpi=1.39)[concat]


def test_no_promise_is_made_for_convolutions_smaller_than_the_first():
    limits = {shape.name: bars.limit_over_local(shape, "mpi") for shape in SHAPES}
    without = [name for name, limit in limits.items() if limit is None]
    assert without == ["PeriodicConv2d 64->64 k3, 288x384"]
    assert limits[CONV.name] == 1.03
    assert {limits[s.name] for s in SHAPES if s.layer == "conv_transpose"} == {1.05}


def test_other_bars():
    found = {
        "memory": [{"row": "a", "layout": "contiguous", "ratio": "1.05"}],
        "tiny": [
            {"layer": "b", "contender": name, "more_us": us, "more_us_q1": us, "more_us_q3": us}
            for name, us in (("null", "-2"), ("mpi", "61"), ("gloo", "900"))
        ],
        "halo_exchange": [
            {"bytes": "1024", "raw_us": "2.0", "graticule_us": "7.5"},
            {"bytes": "184320", "raw_us": "20", "graticule_us": "32"},
        ],
        "traffic": [{"row": "c", "ranks": "6", "bytes": "20", "predicted_bytes": "10"}],
    }
    assert [b.met for b in bars.bars(found)] == [False, True, True, False, False]
    text = tables.short_bars_table(bars.bars(found))
    assert "| peak memory / (serial share + strips) | at most 1.03 | 0 of 1 | 1.050 | a, contiguous |" in text


def test_prediction_of_a_3x3_convolution():
    row = 64 * 720 * 4
    inner = Traffic(bytes=4 * row, messages=4)  # one row to either side, forward and backward
    assert [predicted(CONV, 4, r) for r in range(4)] == [Traffic(2 * row, 2), inner, inner, Traffic(2 * row, 2)]
    assert predicted(CONV, 1, 0) == Traffic()
    few = strip_bytes(CONV, 2, 0) / row
    # Each way: a row sent, one received, a strip of one row computed from three.
    assert few == 2 * (1 + 1 + 1 + 3)


def test_prediction_of_strides():
    k4 = Shape("", "conv", 8, 16, 64, 32, 4, 2, 1)
    x_row, y_row = 8 * 32 * 4, 16 * 16 * 4
    # One row before and one after; one output row's gradient from either side.
    assert predicted(k4, 2, 0) == Traffic(x_row + y_row, 2)
    patches = Shape("", "conv", 8, 16, 64, 32, 4, 4, 0)
    assert predicted(patches, 2, 1) == Traffic()
    transposed = Shape("", "conv_transpose", 16, 8, 32, 16, 4, 2, 1)
    assert predicted(transposed, 2, 0) == Traffic(x_row + y_row, 2)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.name)
def test_what_is_sent_is_what_the_stencil_predicts(shape):
    small = thin(dataclasses.replace(shape, rows=96 + shape.rows % 2, output_size=shape.output_size and (193, 0)))
    for ranks in (2, 3):
        expected = sum((predicted(small, ranks, rank) for rank in range(ranks)), Traffic())
        assert counted(small, ranks, f"benchmark {shape.name} {ranks}") == expected


def test_peak_memory_of_known_allocations():
    size = 1 << 20

    def call():
        a = torch.empty(size)
        b = torch.empty(size // 2)
        del a
        return b, torch.empty(size // 4)

    assert peak_bytes(call) == size * 4 + size * 2
    worker: list[int] = []

    def within_autograd():
        x = torch.empty(size, requires_grad=True)
        (x * x).sum().backward()

    worker.append(peak_bytes(within_autograd))
    assert 3 * size * 4 <= worker[0] <= 5 * size * 4  # x, the product, and at most two factors of the gradient


class ThreadGroup:
    """Send and receive between threads, in place of a process group."""

    def __init__(self, size: int) -> None:
        self.boxes: dict[tuple[int, int], torch.Tensor] = {}
        self.parts: dict[int, torch.Tensor] = {}
        self.barrier = threading.Barrier(size)


class ThreadNeighbours(Neighbours):
    def exchange(self, sends, receives):
        self.group.boxes.update({(self.rank, peer): t.clone() for peer, t in sends.items()})
        self.group.barrier.wait()
        for peer, buffer in receives.items():
            buffer.copy_(self.group.boxes[peer, self.rank])
        self.group.barrier.wait()

    def sum(self, x):
        self.group.parts[self.rank] = x
        self.group.barrier.wait()
        total = sum(self.group.parts[r] for r in range(self.size))
        self.group.barrier.wait()
        return total


RANDOM = threading.Lock()  # threads share the generator


def contenders(shape: Shape, make, rank: int, size: int) -> tuple[Reference, Contender]:
    """What the uncut layer gives, and the layer that `make` gives for the module, on the rows of `rank`."""
    rows, outputs = all_rows(shape.rows, size)[rank], all_rows(shape.output_rows, size)[rank]
    with RANDOM:
        module = serial_layer(shape)
        torch.manual_seed(1)
        whole = torch.randn(1, *shape.sizes, requires_grad=True)
        gradient = torch.randn_like(module(whole))
    serial = Contender(module, whole, gradient, list(module.parameters()))
    reference = Reference(serial, rows, outputs, shape.cut_dim, backward=True)
    x = whole.detach().narrow(shape.cut_dim, rows[0], rows[1] - rows[0]).clone().requires_grad_()
    own = gradient.narrow(shape.cut_dim, outputs[0], outputs[1] - outputs[0]).clone()
    return reference, Contender(make(module), x, own, list(module.parameters()))


@pytest.mark.parametrize("keep_format", [False, True])
@pytest.mark.parametrize("shape", chosen("", smoke=True, full=False), ids=lambda s: s.name)
def test_concatenation_is_exact(shape, keep_format):
    """What the benchmark compares with is right too, or is not there."""
    group = ThreadGroup(2)

    def body(domain):
        around = ThreadNeighbours(group, domain.rank, domain.size)
        reference, contender = contenders(
            shape, lambda module: concatenated_layer(module, shape, around, keep_format), domain.rank, domain.size
        )
        if contender.call is None:
            return False
        reference.check(shape.name, contender, domain.group_name)
        return True

    assert run_ranks(2, body) == [shape.layer != "interpolate"] * 2


@pytest.mark.parametrize("wrong", ["output", "gradient"])
def test_a_wrong_contender_is_not_timed(wrong):
    shape = chosen("Conv2d 64->64 k3, 360x720", smoke=True, full=False)[0]

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, *gradients):
            return gradients[0] * 1.001

    def body(domain):
        def make(module):
            layer = cut_layer(module, shape, domain)
            return lambda x: layer(x) * 1.001 if wrong == "output" else Twice.apply(layer(x))

        reference, contender = contenders(shape, make, domain.rank, domain.size)
        with pytest.raises(WrongResultError, match=f"planted: .*{wrong}"):
            reference.check("planted", contender, domain.group_name)

    run_ranks(2, body)


def test_meeting(tmp_path):
    Meeting.create(tmp_path / "meeting", 3)
    seen: list[float] = []

    def body(rank: int) -> None:
        meeting = Meeting(tmp_path / "meeting", rank, 3)
        for turn in range(20):
            meeting.start()
            seen.append(meeting.largest(rank + turn))

    threads = [threading.Thread(target=body, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(seen) == sorted(2.0 + turn for turn in range(20) for _ in range(3))


def test_shapes():
    names = [shape.name for shape in SHAPES]
    assert len(set(names)) == len(names) == 18
    assert [s.name for s in chosen("GroupNorm(32", False, False)] == ["GroupNorm(32,512), 120x180"]
    with pytest.raises(ValueError, match="no row's name holds 'nonsense'"):
        chosen("nonsense", False, False)
    scaled = dataclasses.replace(CONV, scale=Scale(rows=2, columns=4, channels=8)).scaled()
    assert (scaled.rows, scaled.columns, scaled.channels, scaled.outputs) == (180, 180, 8, 8)
    assert str(scaled.scale) == "H/2 W/4 channels/8"
    assert {s.rows % 2 for s in chosen("721x", True, False)} == {1}
    for shape in (*chosen("", False, False), *chosen("", True, False)):
        module = serial_layer(shape).to("meta")
        y = module(torch.empty(1, *shape.sizes, device="meta"))
        times = (shape.output_times,) if shape.times else ()
        assert tuple(y.shape) == (1, shape.outputs, *times, shape.output_rows, shape.output_columns)


def test_documents():
    text = "before\n<!-- bench: bars -->\nold\n<!-- end: bars -->\nafter\n"
    new = report.insert(text, "bars", "new")
    assert new == "before\n<!-- bench: bars -->\nnew\n<!-- end: bars -->\nafter\n"
    assert report.insert(new, "bars", "new") == new
    assert report.insert(text, "elsewhere", "new") == text
    found = {name: [] for name in report.NAMES} | {"layers": layers()}
    sections = report.sections(found, judge=True)
    page = (REPOSITORY / "docs" / "benchmarks.md").read_text() + (REPOSITORY / "README.md").read_text()
    for place in (*sections, "memory", "traffic", "tiny", "halo_exchange", "training_step"):
        assert f"<!-- bench: {place} -->" in page or place == "contiguous forward", place
    assert "1.010 (1.010 to 1.010)" in sections["contiguous forward+backward"]
    assert "n/a" in tables.layers_table(ratios.summarise(turns(local=[1.0], null=[1.0])), *list(FACTS.values())[2:])


def test_picture():
    import xml.etree.ElementTree as ElementTree

    picture = ElementTree.fromstring(ratios_chart([r for r in layers() if r["base"] == "local"], "title"))
    circles = [e for e in picture if e.tag.endswith("circle")]
    assert len(circles) == 5 + 5  # the legend, and one a contender
    assert any(e.text == "1.01" for e in picture)
