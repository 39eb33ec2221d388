from tests.ops.suite import OpSuite


class TestBnReluConv2d(OpSuite):
    op = "bn_relu_conv2d"
