import os
import pathlib
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GRATICULE_TIMEOUT", "20")
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import pytest
import torch

from support.device import DEVICE

torch.set_num_threads(1)
if DEVICE != "cpu":
    torch.set_default_device(DEVICE)

SUMMARY: list[str] = []


@pytest.fixture(autouse=True)
def seed():
    """Processes that run a test together draw alike."""
    torch.manual_seed(0)


@pytest.fixture
def summary() -> list[str]:
    """Lines that are printed when all tests have run."""
    return SUMMARY


def pytest_terminal_summary(terminalreporter):
    if SUMMARY:
        terminalreporter.section("exactness")
        for line in SUMMARY:
            terminalreporter.write_line(line)
