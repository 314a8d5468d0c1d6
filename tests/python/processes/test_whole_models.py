"""Whole models on cut tensors over Gloo processes, beside DDP and FSDP2; and the command that starts its own."""

import re
import subprocess
import sys

import pytest

from processes.launch import TESTS, WORKERS, torchrun


def test_two_cuts_times_two_of_the_batch():
    output = torchrun(4, WORKERS / "whole_models.py")
    names = re.findall(r"(\w+) exact", output)
    assert names == [
        "with_domains",
        "with_dtensors",
        "with_accumulation",
        "with_checkpointing",
        "with_average",
        "with_autocast",
        "with_ddp",
        "with_fsdp",
        "with_linear_cross_entropy",
    ]


@pytest.mark.undisturbed
@pytest.mark.parametrize("processes", [2, 3])
def test_compiled_models_on_cut_tensors(processes):
    assert "exact" in torchrun(processes, WORKERS / "compiled_whole.py", GRATICULE_TIMEOUT="30")


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "graticule", *arguments], cwd=TESTS, capture_output=True, text=True, timeout=150
    )


SHAPE = ("--shape", "1,3,21,8")


def test_the_command_verifies():
    found = command("verify", "support.small_models:fine", *SHAPE, "--ranks", "3", "--perturb", "0.1")
    assert found.returncode == 0, found.stderr
    assert "exact to 1e-10" in found.stdout
    assert "parameter gradient" in found.stdout


def test_the_command_names_the_module_that_differs():
    found = command("verify", "support.small_models:faulty", *SHAPE)
    assert found.returncode == 1, found.stderr
    assert "first difference: gradients from 1.1 (Faulty)" in found.stdout


def test_the_command_reports():
    found = command("report", "support.small_models:fine", *SHAPE, "--strict")
    assert found.returncode == 0, found.stderr
    assert re.search(r"halo +1 .*aten.convolution.default +0$", found.stdout, re.MULTILINE), found.stdout


def test_the_command_names_modules_and_lines():
    """Of forward and backward; a model of PyTorch's modules alone has no line of its own."""
    found = command("report", "support.small_models:fine", *SHAPE, "--all")
    assert found.returncode == 0, found.stderr
    assert re.search(r"^0 +aten.convolution.default +halo .*torch/nn/modules/conv.py:\d+$", found.stdout, re.MULTILINE)
    backward = r"^4 +aten.convolution_backward.default +halo .*the backward pass$"
    assert re.search(backward, found.stdout, re.MULTILINE), found.stdout
    found = command("report", "support.small_models:Sorted", *SHAPE, "--strict")
    assert found.returncode == 1
    assert re.search(r"^GATHER of aten.sort\S+ in inner, .*small_models.py:\d+$", found.stdout, re.MULTILINE), (
        found.stdout
    )


def test_the_command_plans():
    found = command("plan", "support.small_models:fine", *SHAPE, "--ranks", "2,4")
    assert found.returncode == 0, found.stderr
    assert re.search(r"21 rows: 10, 11", found.stdout)
    assert re.search(r"21 rows: 3 x 5, 6", found.stdout)
    assert found.stdout.count("gathers:      none") == 2


FORCED = ("support.small_models:Forced", *SHAPE, "--shape", "1,2,21,8", "--shape", "1,1")


def test_the_command_takes_several_inputs():
    """Those of the first one's dimensions and rows are cut, others replicated."""
    found = command("verify", *FORCED, "--ranks", "3")
    assert found.returncode == 0, found.stderr
    assert re.search(r"input gradient +3 ", found.stdout), found.stdout
    planned = command("plan", *FORCED, "--ranks", "3")
    assert planned.returncode == 0, planned.stderr
    assert "21 rows: 3 x 7" in planned.stdout and "gathers:      none" in planned.stdout
    reported = command("report", *FORCED, "--strict")
    assert reported.returncode == 0, reported.stderr
    assert "1,3,21,8 and 1,2,21,8 and 1,1: sent by rank 0 of 2" in reported.stdout
