from tests.ops.suite import OpSuite


class TestDenseBlock(OpSuite):
    op = "dense_block"
