import os
import pathlib
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GRATICULE_TIMEOUT", "20")
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import pytest
import torch

torch.set_num_threads(1)

SUMMARY: list[str] = []


@pytest.fixture
def summary() -> list[str]:
    """Lines that are printed when all tests have run."""
    return SUMMARY


def pytest_terminal_summary(terminalreporter):
    if SUMMARY:
        terminalreporter.section("exactness")
        for line in SUMMARY:
            terminalreporter.write_line(line)
