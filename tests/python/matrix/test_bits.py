"""Bit for bit: what is identical stays so, and known_exceptions/ lists the rest by processor, no more and no less."""

import os
import pathlib
import subprocess
import sys

import pytest
import torch

from matrix.bit_cases import cases, serial
from matrix.bits import INSTRUCTIONS, PATHS, UNEXPLAINED, cut_and_uncut, processor
from matrix.torch_alone import explained

HERE = pathlib.Path(__file__).parent
TABLES = HERE / "known_exceptions"
# On a processor without a table this share must be identical.
LEAST_IDENTICAL = {"AVX512_CORE": 0.95, "AVX2": 0.7}


def known_exceptions() -> dict[str, list[str]] | None:
    """This processor's lines by instruction set, if it has a table: of these caches, or of caches unknown."""
    here = processor()
    tables = [TABLES / f"{name}.txt" for name in (here, here.partition("_L2-")[0])]
    table = next((path for path in tables if path.exists()), None)
    if table is None:
        return None
    lines: dict[str, list[str]] = {}
    for line in table.read_text().splitlines():
        if line.startswith("["):
            listed = lines.setdefault(line.strip("[]"), [])
        elif " | " in line and not line.startswith("#"):
            listed.append(line)
    return lines


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
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
    lines = done.stdout.splitlines()
    found = [line for line in lines if " | " in line]
    *forced, last = (line for line in lines if " | " not in line)
    unexplained = [line for line in found if UNEXPLAINED in line]
    assert not unexplained, "the cut layer's own: \n" + "\n".join(unexplained)
    assert len(forced) == len(PATHS)
    count = int(last.removeprefix("cases: "))
    assert count >= 500
    differing = {line.split(" | ")[0] for line in found}
    identical = count - len(differing)
    known = known_exceptions()
    summary.append(
        f"bits, {instructions}: {count} cases of float32 on one thread, {identical} identical in output and input "
        f"gradient, {len(differing)} with the bits of PyTorch alone on the same rows; forced {', '.join(forced)}"
        + ("" if known else f"; known_exceptions/ has no table of this processor ({processor()}) to compare with")
    )
    assert identical >= LEAST_IDENTICAL[instructions] * count
    if known:
        new = sorted(set(found) - set(known[instructions]))
        gone = sorted(set(known[instructions]) - set(found))
        assert not new, "no longer identical; mend it, or list it: \n" + "\n".join(new)
        assert not gone, "identical now; take it out of the table: \n" + "\n".join(gone)


def test_a_last_bit_that_pytorch_alone_does_not_give_is_no_known_reason():
    """The experiments must be able to fail."""
    case = next(c for c in cases() if c.dims == 2 and c.kernel == 3 and c.ranks == 3)
    whole = serial(case)
    for what, (cut, uncut) in cut_and_uncut(case, whole).items():
        assert explained(case, whole, what, cut, uncut)
        value = cut.view(-1)[-1:]
        value.copy_(torch.nextafter(value, torch.full_like(value, torch.inf)))
        assert not explained(case, whole, what, cut, uncut)
