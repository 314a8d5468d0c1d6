"""The same over real processes: Gloo under torchrun, MPI under mpiexec."""

import functools
import os
import re

import pytest
import torch
from torch import nn

from processes.launch import REPOSITORY, WORKERS, ProcessesFailedError, has_mpi, mpiexec, mpiexec_program, torchrun

needs_mpi = pytest.mark.skipif(not has_mpi(), reason="the library was built without MPI")


@pytest.mark.parametrize("processes", [2, 3])
def test_layers_and_a_model_are_exact_over_gloo(processes):
    assert "exact" in torchrun(processes, WORKERS / "exactness.py", "gloo")


@needs_mpi
@pytest.mark.parametrize("processes", [2, 3])
def test_layers_and_a_model_are_exact_over_mpi(processes):
    assert "exact" in mpiexec(processes, WORKERS / "exactness.py", "mpi")


@needs_mpi
def test_a_rank_that_is_done_waits_for_the_others(tmp_path):
    script = tmp_path / "late.py"
    script.write_text(
        "import time, graticule\n"
        "domain = graticule.Domain.mpi()\n"
        "if domain.rank == 0:\n"
        "    time.sleep(2)\n"
        "    print('saved', flush=True)\n"
    )
    assert "saved" in mpiexec(2, script)


@pytest.mark.parametrize("processes,size", [(2, 2), (3, 3), (4, 2), (2, 1)])
def test_the_manager(processes, size):
    assert "well" in torchrun(processes, WORKERS / "manager.py", str(size))


WAYS = [
    "rows", "width", "dtype", "raises",
    "whole width", "whole op", "whole seed", "whole raises in backward",
]  # fmt: skip


@functools.cache
def failing(launch, processes: int, transport: str) -> str:
    """What the ranks print that err in every way, one after the other: one start serves a test of each way."""
    return launch(processes, WORKERS / "failing.py", transport, *WAYS, GRATICULE_TIMEOUT="3")


def assert_all_end_in_time(output: str, how: str, processes: int) -> dict[int, str]:
    found = re.findall(rf"^{how}: rank (\d) failed after ([0-9.]+) s: (.*)", output, re.MULTILINE)
    assert sorted(int(rank) for rank, _, _ in found) == list(range(processes)), output
    assert all(float(seconds) < 8 for _, seconds, _ in found), output
    return {int(rank): message for rank, _, message in found}


@pytest.mark.undisturbed
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("processes", [2, 3])
def test_an_error_on_one_rank_ends_all_over_gloo(how, processes):
    errors = assert_all_end_in_time(failing(torchrun, processes, "gloo"), how, processes)
    if how == "rows":
        assert "expected 8 rows" in errors[1]
    if how == "whole seed":
        assert any("random numbers" in error for error in errors.values())


@pytest.mark.undisturbed
@needs_mpi
@pytest.mark.parametrize("how", WAYS)
def test_an_error_on_one_rank_ends_all_over_mpi(how):
    assert_all_end_in_time(failing(mpiexec, 3, "mpi"), how, 3)


@pytest.mark.undisturbed
@needs_mpi
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="ranks share a processor")
@pytest.mark.parametrize("how", ["moving", "waits"])
def test_a_late_halo_moves_while_the_rank_computes(how, summary):
    """A neighbour is 200 ms late during a convolution of 300 ms: rank 0 does not wait for it. It waits for all of the
    delay where MPI moves messages in waits only, so that this measures what it says.
    """
    output = mpiexec(2, WORKERS / "overlapping.py", *([how] if how == "waits" else []))
    found = re.findall(r"(forward|backward) (\d+) (-?\d+)", output)
    assert [direction for direction, _, _ in found] == ["forward", "backward"], output
    for direction, local, beyond in found:
        summary.append(
            f"a neighbour 200 ms late, messages move in waits {'only' if how == 'waits' else 'and beside them'}: "
            f"{direction} takes {local} ms locally, {beyond} ms more in the cut layer"
        )
        assert int(beyond) > 100 if how == "waits" else int(beyond) < 100, output


def readme_example() -> str:
    """The README's program in Python, as it stands there."""
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    (example,) = (block for block in blocks if "init_process_group" in block)
    return example


@pytest.mark.parametrize("processes", [2, 3])
def test_the_example_in_the_readme(processes, tmp_path):
    script = tmp_path / "example.py"
    script.write_text(readme_example())
    output = torchrun(processes, script)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 3, 3, 2, 1))
    rows = model(torch.randn(1, 3, 721, 64))
    shape, norm = re.search(r"\((.*)\), norm of the output ([0-9.]+)", output).groups()
    assert shape == ", ".join(map(str, rows.shape))
    assert abs(float(norm) - rows.norm().item()) < 2e-4 + 1e-6 * rows.norm().item()


@needs_mpi
def test_the_cpp_example_in_the_readme():
    (example,) = re.findall(r"```cpp\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert example == (REPOSITORY / "examples/cpp/one_step.cpp").read_text()
    program = REPOSITORY / "build/dev/bin/one_step"
    if not program.exists():
        pytest.skip("the C++ examples are built with the C++ tests: make test-cpp")
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 16, 3, 2, 1)
    forecast = conv(torch.randn(1, 3, 721, 64))
    forecast.square().sum().backward()
    for processes in (1, 2, 3):
        output = mpiexec_program(processes, str(program))
        sizes, norm, gradient = re.search(r"\[(.*)\], norm of the output (\S+), of the gradient (\S+)", output).groups()
        assert sizes == ", ".join(map(str, forecast.shape))
        assert abs(float(norm) / forecast.norm().item() - 1) < 1e-5
        assert abs(float(gradient) / conv.weight.grad.norm().item() - 1) < 1e-5


def test_a_rank_that_fails_is_seen(tmp_path):
    """The launcher itself can fail."""
    script = tmp_path / "fails.py"
    script.write_text("import os\nassert os.environ['RANK'] != '1'\n")
    with pytest.raises(ProcessesFailedError):
        torchrun(2, script)


def test_a_deadlock_is_a_failure_that_names_the_test(tmp_path, monkeypatch):
    script = tmp_path / "hangs.py"
    script.write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setattr("processes.launch.PATIENCE_SECONDS", 5)
    with pytest.raises(ProcessesFailedError, match="test_a_deadlock_is_a_failure_that_names_the_test"):
        torchrun(2, script)
