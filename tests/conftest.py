"""What has to be settled before the first test module is imported."""

import os

import torch

if not torch.cuda.is_available():
    # Read when a function is decorated, those of triton's own library too, so before triton is imported, which torch's
    # compiler does too. Where there is a device, that compiler needs triton's, and tests/gpu runs the kernels there.
    os.environ["TRITON_INTERPRET"] = "1"
