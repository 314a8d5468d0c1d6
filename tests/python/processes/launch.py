"""Starts programs of several processes, and ends them."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile

TESTS = pathlib.Path(__file__).parents[1]
WORKERS = pathlib.Path(__file__).with_name("workers")
REPOSITORY = TESTS.parents[1]
# An import of torch takes some seconds a process, on busy machines many.
PATIENCE_SECONDS = 150


class ProcessesFailedError(AssertionError):
    """A program that failed or hung, with what it printed."""


def _end(process: subprocess.Popen) -> None:
    """Ends a launcher, which ends its processes where it is asked to."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _run(command: list[str], environment: dict[str, str]) -> str:
    everything = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    everything["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    # A file, not a pipe: processes that outlive their launcher keep a pipe open.
    with tempfile.TemporaryFile("w+") as file:
        process = subprocess.Popen(
            command, env=everything, stdout=file, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        hangs = False
        try:
            process.wait(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            hangs = True
            _end(process)
        file.seek(0)
        output = file.read()
    if hangs:
        test = os.environ.get("PYTEST_CURRENT_TEST", "no test")
        raise ProcessesFailedError(f"{test}: deadlock, {command} hangs:\n{output[-4000:]}")
    if process.returncode != 0:
        raise ProcessesFailedError(f"{command} ended with {process.returncode}:\n{output[-4000:]}")
    return output


def torchrun(processes: int, script: pathlib.Path, *arguments: str, **environment: str) -> str:
    """What a Python program prints under torchrun. Raises ProcessesFailedError where a rank fails or all hang."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return _run([*launcher, str(script), *arguments], environment)


def mpiexec(processes: int, script: pathlib.Path, *arguments: str, **environment: str) -> str:
    """The same over MPI."""
    return mpiexec_program(processes, sys.executable, str(script), *arguments, **environment)


def mpiexec_program(processes: int, *command: str, **environment: str) -> str:
    """A program under the launcher that stands beside Python, else the one on the path."""
    beside = pathlib.Path(sys.executable).with_name("mpiexec")
    launcher = str(beside) if beside.exists() else "mpiexec"
    return _run([launcher, "-n", str(processes), *command], environment)


def has_mpi() -> bool:
    """Whether the library was built with MPI."""
    import graticule

    library = pathlib.Path(graticule.__file__).parent / "lib" / "libgraticule_mpi.so"
    return library.exists() or "GRATICULE_MPI_LIBRARY" in os.environ
