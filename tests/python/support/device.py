"""Where the tests' tensors are: on the CPU, unless the environment's GRATICULE_TEST_DEVICE names another device."""

import os

import torch

DEVICE = os.environ.get("GRATICULE_TEST_DEVICE", "cpu")

# Sums of rounded factors, as cuDNN and cuBLAS form them by default, are no measure of exactness.
torch.backends.cudnn.allow_tf32 = False
torch.backends.cuda.matmul.allow_tf32 = False
