"""Random cases of the training ops, a file for those that share kernels; each is `case(seed) -> TrainingCase`."""

from training_cases import convolution, dense, depthwise, gemm, norm, pools, squeeze, stem

FILES = (norm, pools, depthwise, gemm, convolution, dense, squeeze, stem)
CASES = {case.__name__: case for file in FILES for case in file.CASES}
