"""Tensors of a GPU, over every transport. One GPU serves all ranks where there are no more."""

import pytest
import torch

from processes.launch import WORKERS, has_mpi, mpiexec, torchrun

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_mpi = pytest.mark.skipif(not has_mpi(), reason="the library was built without MPI")

ON_GPU = {"GRATICULE_TEST_DEVICE": "cuda"}


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("transport", ["gloo", "nccl"])
def test_layers_and_a_model_are_exact(transport, processes):
    assert "exact" in torchrun(processes, WORKERS / "exactness.py", transport, **ON_GPU)


@needs_mpi
@pytest.mark.parametrize("processes", [2, 3])
def test_layers_and_a_model_are_exact_over_mpi(processes):
    assert "exact" in mpiexec(processes, WORKERS / "exactness.py", "mpi", **ON_GPU)


def test_two_cuts_times_two_of_the_batch_over_nccl():
    assert torchrun(4, WORKERS / "whole_models.py", **ON_GPU).count("exact") == 8


@pytest.mark.skipif(not torch.__version__.startswith("2.13"), reason="the package compiles by the torch it asks for")
@pytest.mark.parametrize("processes", [2, 3])
def test_compiled_layers_over_nccl(processes):
    checks = ["layers", "primitive", "unused", "model", "shapes", "export", "formats"]
    assert "compiled" in torchrun(processes, WORKERS / "compiled.py", "nccl", *checks, **ON_GPU)


def test_a_cut_layer_does_not_wait_for_the_device():
    assert "asynchronous" in torchrun(2, WORKERS / "asynchronous.py", **ON_GPU)
