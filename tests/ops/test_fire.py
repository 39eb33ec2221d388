from tests.ops.suite import OpSuite


class TestFire(OpSuite):
    op = "fire"
