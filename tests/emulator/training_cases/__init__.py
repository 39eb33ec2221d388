"""Random cases of the training ops, a file for those that share kernels; each is `case(seed) -> TrainingCase`."""

from training_cases import norm

CASES = {case.__name__: case for file in (norm,) for case in file.CASES}
