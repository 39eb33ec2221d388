"""Random cases of the training ops, a file for those that share kernels; each is `case(seed) -> TrainingCase`."""

from training_cases import convolution, dense, depthwise, gemm, norm, pools, squeeze

FILES = (norm, pools, depthwise, gemm, convolution, dense, squeeze)
CASES = {case.__name__: case for file in FILES for case in file.CASES}
