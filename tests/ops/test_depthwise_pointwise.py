from tests.ops.suite import OpSuite


class TestDepthwisePointwise(OpSuite):
    op = "depthwise_pointwise"
