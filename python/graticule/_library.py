"""Finds and loads the compiled ops."""

import atexit
import functools
import importlib
import os
import pathlib
import sys

import torch


def _path(name: str, variable: str) -> pathlib.Path:
    """The library's file: the one that the environment names, else the one beside this package."""
    given = os.environ.get(variable)
    if given:
        return pathlib.Path(given)
    return pathlib.Path(__file__).parent / "lib" / name


def _minor(version: str) -> tuple[str, ...]:
    return tuple(version.split("+")[0].split(".")[:2])


def check_torch_version(built_for: str, running: str) -> None:
    """Raises ImportError unless both are of one minor version: torch's C++ interface changes with each.

    A build is good for one of them only.
    """
    if _minor(built_for) != _minor(running):
        raise ImportError(
            f"graticule was built for torch {built_for}, but torch {running} is installed. "
            f"Install torch {'.'.join(_minor(built_for))}, or build graticule again beside the torch you have: "
            "pip install --no-build-isolation --no-cache-dir, with the path of graticule's folder"
        )


def _load(name: str, variable: str) -> None:
    path = _path(name, variable)
    if not path.exists():
        raise ImportError(f"graticule: {path} is missing. Run `make build`, or set {variable} to the library's file.")
    torch.ops.load_library(path)


def load_ops() -> None:
    """Loads libgraticule after a check of torch's version. Raises ImportError saying what to do."""
    try:
        built_for = importlib.import_module("graticule._build_info").TORCH_VERSION
    except ModuleNotFoundError:
        built_for = None
    if built_for is not None:
        check_torch_version(built_for, torch.__version__)
    _load("libgraticule.so", "GRATICULE_LIBRARY")


@functools.cache
def load_mpi() -> None:
    """Loads libgraticule_mpi. Raises ImportError where it was not built.

    At the end of the program this rank then waits for the others, as MPI wants it: a launcher ends all ranks when one
    exits without. Not after an error that nobody caught, which must end them.
    """
    _load("libgraticule_mpi.so", "GRATICULE_MPI_LIBRARY")
    atexit.register(_finalize_mpi)


def _finalize_mpi() -> None:
    if getattr(sys, "last_type", None) is None:
        torch.ops.graticule_mpi.finalize_unless_failed()


load_ops()
