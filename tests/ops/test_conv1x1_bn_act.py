from tests.ops.suite import OpSuite


class TestConv1x1BnAct(OpSuite):
    op = "conv1x1_bn_act"
