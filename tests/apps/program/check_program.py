"""Runs the program `graticule` as a user does and looks at what it leaves behind.

usage: check_program.py PROGRAM MPIEXEC CASE
"""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

SKIPPED = 77
TINY = ["--rows", "13", "--columns", "16", "--runs", "2", "--days", "3", "--channels", "8"]


class Program:
    def __init__(self, program: str, mpiexec: str) -> None:
        self.program = program
        self.mpiexec = mpiexec

    def run(self, ranks: int, *arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        command = (
            [self.program, *arguments] if ranks == 0 else [self.mpiexec, "-n", str(ranks), self.program, *arguments]
        )
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GRATICULE_TIMEOUT": "60"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)
        print("$", *command, f"-> {done.returncode}", done.stdout, done.stderr, sep="\n")
        return done

    def train(self, ranks: int, out: Path, *arguments: str) -> list[dict[str, Any]]:
        """Returns the lines of metrics.jsonl."""
        done = self.run(ranks, "train", "--out", str(out), *arguments)
        assert done.returncode == 0, done.returncode
        assert "RMSE on" in done.stdout
        return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def decoded_size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG with a palette, each checksum and the picture's data verified."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n", path
    chunks, place = {}, 8
    while place < len(data):
        (size,) = struct.unpack_from(">I", data, place)
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        assert struct.unpack_from(">I", data, place + 8 + size)[0] == zlib.crc32(kind + body), (path, kind)
        chunks[kind] = body
        place += 12 + size
    width, height = struct.unpack_from(">II", chunks[b"IHDR"])
    assert len(zlib.decompress(chunks[b"IDAT"])) == (width + 1) * height, path
    return width, height


def check_report(out: Path, report: dict[str, Any], ranks: int, rows: int, columns: int, targets: list[str]) -> None:
    assert (report["ranks"], report["rows"], report["columns"]) == (ranks, rows, columns), report
    assert [t["target"] for t in report["targets"]] == targets
    for target in report["targets"]:
        assert math.isfinite(target["rmse"]) and target["rmse"] > 0
        assert math.isfinite(target["baseline_rmse"]) and target["baseline_rmse"] > 0
        scale = max(1, round(720 / columns))
        for kind in ("truth", "forecast", "error"):
            assert decoded_size(out / target["pictures"][kind]) == (scale * columns, scale * rows)
    assert report["peak_bytes"]["least"] > 1 << 20
    if ranks > 1:
        worst = max(report["exactness"][key] for key in ("output", "input_gradient", "parameter_gradients"))
        assert worst <= 1e-10, worst
        assert report["step_bytes"]["least"] > 0
    else:
        assert report["exactness"] is None
    assert (out / "checkpoint.pt").stat().st_size > 0


def check_train(program: Program, ranks: int, folder: Path) -> None:
    lines = program.train(ranks, folder, *TINY, "--steps", "3")
    assert [line["step"] for line in lines[:-1]] == [1, 2, 3]
    assert all(math.isfinite(line["loss"]) and line["seconds"] > 0 for line in lines[:-1])
    check_report(folder, lines[-1], max(ranks, 1), 13, 16, ["h", "u", "v"])


def check_same_losses(program: Program, folder: Path) -> None:
    curves = []
    for ranks in (1, 2, 3, 4):
        lines = program.train(ranks, folder / str(ranks), *TINY, "--steps", "4", "--dtype", "float64")
        curves.append([line["loss"] for line in lines[:-1]])
    assert len(curves[0]) == 4
    for curve in curves[1:]:
        for loss, expected in zip(curve, curves[0], strict=True):
            assert abs(loss - expected) <= 1e-9 * expected, curves


def check_load(program: Program, folder: Path) -> None:
    first, second = folder / "first", folder / "second"
    trained = program.train(2, first, *TINY, "--steps", "3", "--dtype", "float64")[-1]
    loaded = program.train(3, second, *TINY, "--load", str(first / "checkpoint.pt"), "--steps", "0")
    assert len(loaded) == 1
    assert loaded[0]["step_bytes"] is None
    for after, before in zip(loaded[0]["targets"], trained["targets"], strict=True):
        assert abs(after["rmse"] - before["rmse"]) <= 1e-9 * before["rmse"]
    continued = program.train(2, second, *TINY, "--load", str(first / "checkpoint.pt"), "--epochs", "2")
    assert [line["step"] for line in continued[:-1]] == [4, 5]


def check_errors(program: Program, folder: Path) -> None:
    def fails(code: int, text: str, ranks: int, *arguments: str) -> None:
        done = program.run(ranks, *arguments, timeout=60)
        assert done.returncode == code, (done.returncode, arguments)
        assert text in done.stderr, (text, arguments)

    out = str(folder / "out")
    fails(2, "no command given", 0)
    fails(2, "unknown command 'trian'", 2, "trian")
    fails(2, "unknown option --foo", 2, "train", "--out", out, "--foo")
    fails(2, "--out is required", 1, "train")
    fails(2, "--batch: expected a whole number", 2, "train", "--out", out, "--batch", "many")
    assert not (folder / "out").exists()
    fails(1, "nothing.nc", 2, "train", "--out", out, "--data", "nothing.nc", "--inputs", "z", "--targets", "u")
    (folder / "file").write_text("")
    fails(1, "file", 2, "train", "--out", str(folder / "file" / "out"), *TINY, "--steps", "1")
    fails(1, "there is no checkpoint", 3, "train", "--out", out, *TINY, "--load", str(folder / "missing.pt"))
    program.train(1, folder / "trained", *TINY, "--steps", "1")
    checkpoint = str(folder / "trained" / "checkpoint.pt")
    other = [*TINY[:2], "--columns", "18", *TINY[4:]]
    fails(1, "is for a grid of 13 x 16", 2, "train", "--out", out, *other, "--load", checkpoint)
    fails(1, "not every target is forecast better", 2, "train", "--out", out, *TINY, "--steps", "0", "--require-skill")


def check_help(program: Program) -> None:
    for ranks in (0, 2):
        overview = program.run(ranks, "--help")
        assert overview.returncode == 0 and overview.stdout.count("usage: graticule") == 1
        options = program.run(ranks, "train", "--help")
        assert options.returncode == 0 and options.stdout.count("--require-skill") == 1
        version = program.run(ranks, "--version")
        assert version.returncode == 0 and version.stdout.startswith("graticule ")


def check_real_data(program: Program, folder: Path) -> None:
    path = Path(os.environ["GRATICULE_TEST_DATA"]) / "eraint_uvz.nc"
    arguments = ["--data", str(path), "--inputs", "z", "--targets", "u,v", "--channels", "16", "--batch", "3"]
    lines = program.train(2, folder, *arguments, "--steps", "6")
    assert lines[5]["loss"] < lines[0]["loss"]
    check_report(folder, lines[-1], 2, 241, 480, ["u", "v"])


def main() -> int:
    program = Program(*sys.argv[1:3])
    case = sys.argv[3]
    if case == "real_data" and not os.environ.get("GRATICULE_TEST_DATA"):
        print("skipped: GRATICULE_TEST_DATA does not name the folder of eraint_uvz.nc")
        return SKIPPED
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if case.startswith("train_"):
            check_train(program, int(case.removeprefix("train_")), folder)
        elif case == "help":
            check_help(program)
        else:
            checks = {
                "same_losses": check_same_losses,
                "load": check_load,
                "errors": check_errors,
                "real_data": check_real_data,
            }
            checks[case](program, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
