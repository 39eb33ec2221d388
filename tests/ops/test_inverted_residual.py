from tests.ops.suite import OpSuite


class TestInvertedResidual(OpSuite):
    op = "inverted_residual"
