from tests.ops.suite import OpSuite


class TestHead(OpSuite):
    op = "head"
