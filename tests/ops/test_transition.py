from tests.ops.suite import OpSuite


class TestTransition(OpSuite):
    op = "transition"
