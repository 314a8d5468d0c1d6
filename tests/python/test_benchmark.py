"""The parts of the benchmark that need no clock: statistics, predictions, the regression check, bars, documents."""

import dataclasses
import pathlib
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch

REPOSITORY = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

from benchmarks import (  # noqa: E402
    bars,
    check,
    layer_times,
    options,
    paths,
    ratios,
    records,
    report,
    runs,
    stored,
    tables,
    traffic,
)
from benchmarks.chart import ratios_chart  # noqa: E402
from benchmarks.concatenation import Neighbours, all_rows, concatenated_layer  # noqa: E402
from benchmarks.exactness import Reference, WrongResultError  # noqa: E402
from benchmarks.meeting import Meeting  # noqa: E402
from benchmarks.memory import peak_bytes  # noqa: E402
from benchmarks.modules import cut_layer, serial_layer  # noqa: E402
from benchmarks.prediction import Traffic, predicted, strip_bytes  # noqa: E402
from benchmarks.shapes import SHAPES, Scale, Shape, chosen, timed  # noqa: E402
from benchmarks.stored import KINDS, reference_of  # noqa: E402
from benchmarks.traffic import counted, furthest, thin  # noqa: E402
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


def run_tables(**changes: Any) -> dict[str, list[dict]]:
    """A run's tables; `changes` give other ratios, times of tiny tensors or bytes than it has."""
    found = {
        "mpi": 1.01,
        "concat": 1.4,
        "memory": 0.98,
        "more_us": 130,
        "dispatch": 30,
        "exchange": 2.5,
        "bytes": 2000000,
        **changes,
    }
    n = 4
    null = found.get("null", (1.0, 1.0))
    times = {"local": [1.0] * n, "null": [null[0]] * 2 + [null[1]] * 2, "gloo": [1.02] * n, "mpi": [found["mpi"]] * n}
    kept = {"concat": [found["concat"] * found["mpi"]] * n}
    tiny = [
        {"layer": "conv", "contender": c, "local_us": "100", "more_us": str(found["more_us"])} for c in ("mpi", "gloo")
    ]
    dispatch = [
        {"op": op, "moved": moved, "plain_us": "5", "more_us": str(found["dispatch"])}
        for op, moved in (("relu", ""), ("view", ""), ("roll", "halo"))
    ]
    each = [Traffic(found["bytes"], 4), Traffic(2000000, 4)]
    sent = [traffic.record(CONV.name, each, [Traffic(2000000, 4)] * 2), traffic.record("local", *[[Traffic()] * 3] * 2)]
    return {
        "layers": ratios.summarise(turns(**times, **kept)),
        "memory": [{"row": CONV.name, "layout": "contiguous", "ratio": f"{found['memory']:.4f}"}],
        "tiny": tiny,
        "dispatch": dispatch,
        "halo_exchange": [{"bytes": "1024", "ratio": str(found["exchange"])}],
        "traffic": [{key: str(value) for key, value in r.items()} for r in sent],
    }


def verdicts(now: dict, stored: dict) -> dict[str, set[str]]:
    """Of each kind, those that are no pass."""
    compared = check.compare(reference_of(now), reference_of(stored))
    return {kind: {c["verdict"] for c in compared if c["kind"] == kind} - {""} for kind in KINDS}


def test_check_passes_on_equal_data():
    compared = check.compare(reference_of(run_tables()), reference_of(run_tables()))
    assert [sum(c["kind"] == kind for c in compared) for kind in KINDS] == [2, 1, 1, 1, 1, 1, 4]
    assert {c["verdict"] for c in compared} == {""}


# A change for the better; one for the worse that passes, and one that fails.
MOVES = {
    stored.OVER_LOCAL: [{"mpi": 0.7, "concat": 1.4}, {"mpi": 1.06}, {"mpi": 1.07}],
    stored.CONCATENATION: [{"concat": 2.0}, {"concat": 1.27}, {"concat": 1.25}],
    stored.MEMORY: [{"memory": 0.5}, {"memory": 0.989}, {"memory": 0.991}],
    stored.TINY: [{"more_us": -20}, {"more_us": 179}, {"more_us": 181}],
    stored.DISPATCH: [{"dispatch": 20}, {"dispatch": 34}, {"dispatch": 35}],
    stored.EXCHANGE: [{"exchange": 1.1}, {"exchange": 3.1}, {"exchange": 3.2}],
    stored.TRAFFIC: [{}, {}, {"bytes": 2000004}],
}


@pytest.mark.parametrize("kind", KINDS)
def test_check_of_each_kind(kind):
    better, passes, fails = MOVES[kind]
    nothing = {k: set() for k in KINDS}
    assert verdicts(run_tables(**better), run_tables()) == nothing
    assert verdicts(run_tables(**passes), run_tables()) == nothing
    assert verdicts(run_tables(**fails), run_tables()) == nothing | {kind: {"WORSE"}}


def test_fewer_bytes_than_the_plan_predicts_fail_too():
    assert verdicts(run_tables(bytes=1999996), run_tables())[stored.TRAFFIC] == {"WORSE"}


@pytest.mark.parametrize("name", stored.FILES)
def test_check_fails_where_something_stored_is_not_measured(name):
    compared = check.compare(reference_of({**run_tables(), name: []}), reference_of(run_tables()))
    kinds = {
        "layers": {stored.OVER_LOCAL, stored.CONCATENATION},
        "memory": {stored.MEMORY},
        "tiny": {stored.TINY},
        "dispatch": {stored.DISPATCH},
        "halo_exchange": {stored.EXCHANGE},
        "traffic": {stored.TRAFFIC},
    }[name]
    assert {c["kind"] for c in compared if c["verdict"]} == kinds
    assert {c["verdict"] for c in compared if c["kind"] in kinds} == {"MISSING"}
    text = check.table(compared)
    for kind in kinds:
        missing = sum(c["kind"] == kind for c in compared)
        assert f"{kind}: 0 of 0 are no worse than stored; MISSING: {missing} stored ones" in text


def test_check_allows_for_noise_but_not_for_all_of_it():
    """Of noise in either run at most 0.05 passes; what more of it could explain is to be measured again."""
    quiet = run_tables()
    for noisy in ((0.97, 1.03), (0.8, 1.2)):
        assert verdicts(run_tables(mpi=1.08, null=noisy), quiet)[stored.OVER_LOCAL] == set()
        assert verdicts(run_tables(mpi=1.08), run_tables(null=noisy))[stored.OVER_LOCAL] == set()
    assert verdicts(run_tables(mpi=1.15, null=(0.8, 1.2)), quiet)[stored.OVER_LOCAL] == {"NOISY"}
    assert verdicts(run_tables(mpi=1.15, null=(0.97, 1.03)), quiet)[stored.OVER_LOCAL] == {"WORSE"}
    assert verdicts(run_tables(mpi=1.30, null=(0.8, 1.2)), quiet)[stored.OVER_LOCAL] == {"WORSE"}


def test_check_compares_no_times():
    """A machine of half the speed."""
    slow = run_tables()
    slow["layers"] = [{**r, "median_ms": "9", "base_median_ms": "8"} for r in slow["layers"]]
    slow["tiny"] = [{**r, "local_us": "200", "more_us": "260"} for r in slow["tiny"]]
    assert verdicts(slow, run_tables()) == {kind: set() for kind in KINDS}


def test_the_stored_reference_covers_every_row():
    kept = records.read(check.REFERENCE)
    for kind in (stored.OVER_LOCAL, stored.TRAFFIC):
        assert {r["row"] for r in kept if r["kind"] == kind} == {shape.name for shape in SHAPES}
    assert {r["kind"] for r in kept} == set(KINDS)
    assert {c["verdict"] for c in check.compare(kept, kept)} == {""}


def record_run(out: pathlib.Path, *arguments: str) -> None:
    given = options.parse([*arguments, f"--out={out}"])
    runs.begin(given)


@pytest.mark.parametrize("flag", ["--smoke", "--full"])
def test_a_run_of_other_sizes_is_neither_compared_nor_stored_nor_published(tmp_path, flag, capsys, monkeypatch):
    record_run(tmp_path)
    for name, table in run_tables().items():
        records.write(tmp_path / f"{name}.csv", table)
    reference = tmp_path / "reference.csv"

    def run(*more: str) -> int:
        monkeypatch.setattr(sys, "argv", ["check", str(tmp_path), f"--reference={reference}", *more])
        return check.main()

    assert run("--store") == 0 and run() == 0
    stored_before = reference.read_text()
    record_run(tmp_path, flag)
    assert not (tmp_path / "layers.csv").exists()  # a whole run takes the place of the other
    for name, table in run_tables().items():
        records.write(tmp_path / f"{name}.csv", table)
    capsys.readouterr()
    for arguments in ([], ["--partial"], ["--store"]):
        assert run(*arguments) == 2
        assert f"holds a {flag.replace('--smoke', 'smoke')} run" in capsys.readouterr().err
    assert reference.read_text() == stored_before
    with pytest.raises(ValueError, match="run, whose"):
        report.report(tmp_path, publish=True, judge=True, ranks=2)


def test_parts_of_runs_of_two_kinds_are_not_mixed(tmp_path):
    record_run(tmp_path, "--smoke", "--parts=tiny")
    record_run(tmp_path, "--parts=tiny")  # nothing there yet
    records.write(tmp_path / "tiny.csv", run_tables()["tiny"])
    record_run(tmp_path, "--parts=traffic", "--iterations=5")
    record_run(tmp_path, "--rows=Conv2d", "--iterations=30")
    assert runs.read(tmp_path) == runs.Run("standard", 2, 5)
    for other in (["--smoke"], ["--full"], ["--ranks=3"]):
        with pytest.raises(ValueError, match="holds tables of a standard run on 2 ranks, expected a .* as this one is"):
            record_run(tmp_path, "--parts=traffic", *other)
    (tmp_path / runs.FILE).unlink()
    with pytest.raises(ValueError, match="tables of a run of unknown kind"):
        record_run(tmp_path, "--parts=traffic")
    record_run(tmp_path)
    assert runs.read(tmp_path) == runs.Run("standard", 2, options.LEAST_PUBLISHED)


def test_a_run_that_was_ended_is_taken_up_again(tmp_path):
    """By rows that all tables have; another kind of run is not."""
    turn = {"layout": "contiguous", "mode": "forward", "contender": "local", "iteration": 0, "seconds": 1.0}
    records.write(tmp_path / "turns.csv", [{"row": "a", **turn}, {"row": "b", **turn}])
    records.write(tmp_path / "memory.csv", [{"row": "a", "layout": "contiguous"}])
    records.write(
        tmp_path / "paths.csv", [{"row": "a", "layout": "contiguous"}, {"row": "a", "layout": "channels_last"}]
    )
    found = layer_times.earlier(tmp_path)
    assert {name: [r["row"] for r in table] for name, table in found.items()} == dict.fromkeys(
        layer_times.TABLES, ["a"]
    )
    assert found["paths"][0]["layout"] == "contiguous"
    (tmp_path / "turns.csv").unlink()
    assert not any(layer_times.earlier(tmp_path).values())

    record_run(tmp_path / "other", "--smoke")
    records.write(tmp_path / "other" / "turns.csv", [{"row": "a", **turn}])
    with pytest.raises(ValueError, match="holds tables of a smoke run"):
        runs.begin(options.parse(["--resume", f"--out={tmp_path / 'other'}"]))


def test_a_smoke_run_is_recorded_as_one(tmp_path):
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--smoke",
        "--parts=traffic",
        "--rows=GroupNorm(32",
        f"--out={tmp_path}",
    ]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    assert runs.read(tmp_path) == runs.Run("smoke", 2, 2)
    again = subprocess.run([*command[:3], *command[4:]], cwd=REPOSITORY, capture_output=True, text=True)
    assert again.returncode == 1 and "holds tables of a smoke run" in again.stderr and "Traceback" not in again.stderr


@pytest.mark.parametrize("arguments,code,said", [(["--help"], 0, "--rows"), ([], 1, "run `make bench-programs` first")])
def test_before_a_build_the_benchmark_helps_and_says_what_it_needs(arguments, code, said):
    """Without site-packages there is neither graticule nor torch."""
    command = [sys.executable, "-S", "-m", "benchmarks", *arguments]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env={})
    assert ended.returncode == code, ended.stderr
    assert said in ended.stdout + ended.stderr and "Traceback" not in ended.stderr


def test_check_as_a_program(tmp_path):
    def run(*arguments: str) -> int:
        command = [sys.executable, "-m", "benchmarks.check", *arguments, "--reference", str(tmp_path / "reference.csv")]
        return subprocess.run(command, cwd=REPOSITORY).returncode

    def write(**changes: Any) -> None:
        for name, table in run_tables(**changes).items():
            records.write(tmp_path / "run" / f"{name}.csv", table)

    folder, layers_file = str(tmp_path / "run"), str(tmp_path / "run" / "layers.csv")
    assert run(folder) == 2  # no run
    write()
    assert run(folder) == 2  # of unknown kind
    record_run(tmp_path / "run")
    write()
    assert run(folder) == 2  # nothing stored
    assert run(folder, "--store") == 0
    assert run(folder) == run(layers_file) == 0
    write(memory=1.0)
    assert run(folder) == run(layers_file) == 1
    (tmp_path / "run" / "memory.csv").unlink()
    assert run(folder) == 1
    assert run(folder, "--partial") == 0
    write(memory=1.0)
    assert run(folder, "--partial") == 1
    (tmp_path / "run" / "memory.csv").unlink()
    assert run(folder, "--store") == 2  # half a run


def test_bars():
    def met(**given) -> dict[str, bool]:
        return {b.name: b.met for b in bars.bars({"layers": layers(**given)})}

    over_mpi, over_gloo = (f"{CONV.name}, contiguous: graticule over {t} / local" for t in ("MPI", "Gloo"))
    concat = f"{CONV.name}, contiguous: concatenation / graticule"
    assert met() == {over_mpi: True, over_gloo: True, concat: True}
    assert met(mpi=1.04) == {over_mpi: False, over_gloo: True, concat: True}
    assert met(mpi=1.04, null=(0.98, 1.0))[over_mpi]
    verdicts = {b.name: b.verdict for b in bars.bars({"layers": layers(mpi=1.04, null=(0.98, 1.0))})}
    assert (verdicts[over_mpi], verdicts[over_gloo]) == ("by noise", "yes")
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
        "dispatch": [
            {"op": op, "aten_ops": n, "moved": moved, "more_us": us, "null_us_q1": "-1", "null_us_q3": "0.5"}
            for op, n, moved, us in (
                ("relu", "1", "", "61.1"),
                ("linear", "3", "", "179"),
                ("roll", "1", "halo", "300"),
            )
        ],
        "halo_exchange": [
            {"bytes": "1024", "raw_us": "2.0", "graticule_us": "7.5"},
            {"bytes": "184320", "raw_us": "20", "graticule_us": "32"},
        ],
        "traffic": [{"row": "c", "ranks": "6", "bytes": "20", "predicted_bytes": "20", "bytes_ratio": "1.5"}],
    }
    assert [b.met for b in bars.bars(found)] == [False, True, False, True, True, False, False]
    text = tables.short_bars_table(bars.bars(found))
    assert "| peak memory / (serial share + strips) | at most 1.03 | 0 of 1 | 1.050 | a, contiguous |" in text
    assert "| more than local over MPI | at most 60 us | 0 of 1, 1 more by noise | 61.0 us |" in text


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--rows", "no such row"], "the rows: Conv2d 64->64"),
        (["--parts", "tiny,foo"], "expected some of layer_times, tiny"),
        (["--iterations", "-1"], "over 0, got -1"),
        (["--publish", "--iterations", "3"], "at least 15 iterations, got 3"),
    ],
)
def test_options_that_are_refused(arguments, error, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit):
        options.parse()
    assert error in capsys.readouterr().err


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
        expected = [predicted(small, ranks, rank) for rank in range(ranks)]
        assert counted(small, ranks, f"benchmark {shape.name} {ranks}") == expected


def test_an_inner_rank_sends_the_same_on_any_number_of_ranks():
    small = thin(dataclasses.replace(CONV, rows=60))
    inner = [t for ranks in (3, 4, 5) for t in counted(small, ranks, f"inner of {ranks}")[1:-1]]
    assert set(inner) == {predicted(small, 3, 1)} and len(inner) == 6


def test_ranks_that_make_up_for_each_other_are_seen():
    assert furthest([4, 0], [4, 0]) == 1
    assert furthest([4, 3], [4, 0]) == 4  # 1 and what should not have been sent
    assert furthest([8, 3], [10, 4]) == 0.75
    found = traffic.record(
        "a", [Traffic(10, 1), Traffic(12, 2), Traffic(8, 2)], [Traffic(10, 1), *[Traffic(10, 2)] * 2]
    )
    assert (found["bytes"], found["predicted_bytes"], found["bytes_ratio"]) == (30, 30, "1.2")
    assert (found["messages_ratio"], found["ranks"], found["ranks_as_predicted"]) == ("1", 3, 1)
    assert (found["inner_bytes"], found["predicted_inner_bytes"]) == ("12", "10")


def test_traffic_table():
    inner = [Traffic(10, 2), Traffic(14, 2)]
    end = Traffic(5, 1)
    each = [[end, end], [end, inner[0], end], [end, *inner, end]]
    text = tables.traffic_table([traffic.record("a", sent, sent) for sent in each])
    assert text.endswith(
        "| a | 2, 4, 6 | 2, 4, 6 | 10, 20, 34 | 10, 20, 34 | all | 2 | 2 | 10, 10 to 14 | 10, 10 to 14 |"
    )
    other = traffic.record("a", [inner[1], end], [end, end])
    assert "| 1 |" in tables.traffic_table([other])


def test_paths():
    names = [
        "aten::conv2d",
        "DomainParallelConv2d forward: in place",
        "backward",
        "DomainParallelConv2d backward: whole",
    ]
    assert [paths.told(names, direction) for direction in paths.DIRECTIONS] == ["in place", "whole"]
    names.append("DomainParallelGroupNorm forward: one pass, one pass")
    assert paths.told(names, "forward") == "Conv2d: in place; GroupNorm: one pass, one pass"
    assert paths.told([], "backward") == ""
    assert paths.of_ranks(["a", "a", "a"]) == "a"
    assert paths.of_ranks(["a", "b"]) == "rank 0: a; rank 1: b"
    facts = [("x", "contiguous", "a", "b"), ("x", "channels_last", "a", "b"), ("y", "contiguous", "a", "b")]
    facts.append(("y", "channels_last", "a", "c"))
    keys = ("row", "layout", "path_forward", "path_backward")
    text = tables.paths_table([dict(zip(keys, values, strict=True)) for values in facts])
    assert "| x | contiguous, channels_last | a | b |\n| y | contiguous | a | b |" in text
    assert text.endswith("| y | channels_last | a | c |")


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
    reference = Reference(serial, rows, outputs, shape.cut_dim)
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
    both = timed("k32 s2", False, False)
    assert [layout for _, layout in both] == ["contiguous", "channels_last"]
    assert [str(shape.scale) for shape, _ in both] == ["H/2 W/2", "W/32 channels/4"]
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
    for place in (*sections, "memory", "paths", "traffic", "tiny", "dispatch", "halo_exchange", "training_step"):
        assert f"<!-- bench: {place} -->" in page or place == "contiguous forward", place
    assert "1.010 (1.010 to 1.010)" in sections["contiguous forward+backward"]
    assert "n/a" in tables.layers_table(ratios.summarise(turns(local=[1.0], null=[1.0])), *list(FACTS.values())[2:])


def test_picture():
    import xml.etree.ElementTree as ElementTree

    picture = ElementTree.fromstring(ratios_chart([r for r in layers() if r["base"] == "local"], "title"))
    circles = [e for e in picture if e.tag.endswith("circle")]
    assert len(circles) == 5 + 5  # the legend, and one a contender
    assert any(e.text == "1.01" for e in picture)
