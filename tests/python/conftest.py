import os
import pathlib
import sys
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GRATICULE_TIMEOUT", "20")
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import pytest
import torch

from support.device import DEVICE

torch.set_num_threads(1)
if DEVICE != "cpu":
    torch.set_default_device(DEVICE)

for kind in (torch.cuda, torch.xpu, torch.mtia):
    if not kind.is_available():
        # Each torch.manual_seed notes the stack for a device that may come later, which takes longer than many a test.
        kind.manual_seed_all = lambda seed: None

SUMMARY: list[str] = []


@pytest.fixture(autouse=True)
def seed():
    """Processes that run a test together draw alike."""
    torch.manual_seed(0)


@pytest.fixture
def summary(request) -> Iterator[list[str]]:
    """Lines that are printed when all tests have run: they go with the test's report, from the process that ran it."""
    lines: list[str] = []
    yield lines
    request.node.user_properties.extend(("summary", line) for line in lines)


def pytest_runtest_logreport(report):
    if report.when == "teardown":
        SUMMARY.extend(line for name, line in report.user_properties if name == "summary")


def pytest_terminal_summary(terminalreporter):
    if SUMMARY:
        terminalreporter.section("exactness")
        for line in SUMMARY:
            terminalreporter.write_line(line)
