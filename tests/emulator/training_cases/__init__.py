"""Random cases of the training ops, a file for those that share kernels; each is `case(seed) -> TrainingCase`."""

from training_cases import convolution, dense, gemm, norm, squeeze

CASES = {case.__name__: case for file in (norm, gemm, convolution, dense, squeeze) for case in file.CASES}
