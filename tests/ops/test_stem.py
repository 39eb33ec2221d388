from tests.ops.suite import OpSuite


class TestStem(OpSuite):
    op = "stem"
