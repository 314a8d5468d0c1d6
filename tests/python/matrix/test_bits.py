"""Bit for bit: what is identical stays so, and known_exceptions.txt lists the rest, no more and no less."""

import os
import pathlib
import subprocess
import sys

import pytest
import torch

HERE = pathlib.Path(__file__).parent
KNOWN = HERE / "known_exceptions.txt"
# oneDNN blocks by the caches' sizes too: on a processor other than the table's, this share must be identical.
LEAST_IDENTICAL = {"AVX512_CORE": 0.95, "AVX2": 0.7}


def processor() -> str:
    """Vendor, family and model, as the first line of the table has it."""
    facts = {}
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    return " ".join(facts.get(key, "?") for key in ("vendor_id", "cpu family", "model"))


def known_exceptions() -> tuple[str, dict[str, list[str]]]:
    """The processor of the table, and its lines by instruction set."""
    first, *lines = KNOWN.read_text().splitlines()
    tables: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("["):
            table = tables.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            table.append(line)
    return first.removeprefix("# Processor: "), tables


@pytest.mark.parametrize("instructions", LEAST_IDENTICAL)
def test_cut_convolutions_keep_their_bits(instructions, summary):
    if instructions == "AVX512_CORE" and torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("this processor has no AVX-512")
    # The instruction set is chosen once a process.
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(HERE / "bits.py")], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *found, last = done.stdout.splitlines()
    count = int(last.removeprefix("cases: "))
    assert count >= 500
    differing = {line.split(" | ")[0] for line in found}
    identical = count - len(differing)
    measured_on, tables = known_exceptions()
    here = processor()
    same = here == measured_on
    summary.append(
        f"bits, {instructions}: {count} cases of float32 on one thread, {identical} identical in output and input "
        f"gradient, {len(differing)} not"
        + ("" if same else f"; the table is of another processor ({measured_on}, here {here}) and was not compared")
    )
    assert identical >= LEAST_IDENTICAL[instructions] * count
    if same:
        new = sorted(set(found) - set(tables[instructions]))
        gone = sorted(set(tables[instructions]) - set(found))
        assert not new, "no longer identical; mend it, or list it: \n" + "\n".join(new)
        assert not gone, "identical now; take it out of the table: \n" + "\n".join(gone)
