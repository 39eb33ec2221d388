"""Every training op in CUDA against the fp64 truth through the emulator, as test_kernels.py does for inference."""

import pytest
import torch
from drawing import Draw
from harness import DTYPE_CODES, Gpu, nhwc_fields, norm_fields, pointer, window_fields
from judge import gpu_of
from training_cases import CASES, dense
from training_cases.case import run

from lightops.reference.training import dense_block_train

BATCH = 25
QUICK, LONG = 200, 2000


def check(emulator, op, first):
    for seed in range(first, first + BATCH):
        case = CASES[op](seed)
        assert run(emulator, case, gpu_of(case), seed)


@pytest.mark.parametrize("first", range(0, QUICK, BATCH))
@pytest.mark.parametrize("op", CASES)
def test_training_op_matches_the_truth(emulator, op, first):
    check(emulator, op, first)


@pytest.mark.long
@pytest.mark.parametrize("first", range(QUICK, LONG, BATCH))
@pytest.mark.parametrize("op", CASES)
def test_training_op_matches_the_truth_long(emulator, op, first):
    check(emulator, op, first)


@pytest.mark.parametrize(
    ("op", "seed"),
    [("dense_block_train", 1128)],  # a workspace sized as if the convolutions had no scale: other tiles, fewer bytes
)
def test_a_seed_that_once_failed(emulator, op, seed):
    case = CASES[op](seed)
    assert run(emulator, case, gpu_of(case), seed)


def test_more_weights_than_a_launch_packs(emulator):
    """At stride 6 the input gradient has 36 classes of pixels, each with weights of its own."""
    torch.manual_seed(0)
    w, dy = torch.randint(-1, 2, (5, 4, 7, 7)).float(), torch.randint(-2, 3, (1, 5, 2, 2)).float()
    want = torch.nn.grad.conv2d_input((1, 4, 11, 13), w, dy, stride=6, padding=1)
    x, dx = (torch.full((1, 11, 13, 4), float("nan")).permute(0, 3, 1, 2) for _ in range(2))
    dys = dy.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    fields = [DTYPE_CODES[torch.float32], *nhwc_fields(dys), *nhwc_fields(x), *norm_fields(), 0, pointer(w)]
    fields += [*window_fields(7, 6, 1), 1, 0, *nhwc_fields(dx), 0, 0, 0, 0]
    regions = [(x, False, "x"), (dys, False, "dy"), (w, False, "weight"), (dx, True, "dx")]
    outcome = emulator.run("bn_act_conv2d_backward", fields, regions, Gpu())
    assert (outcome.refusal, outcome.faults) == (None, [])
    assert torch.equal(dx, want)


@pytest.mark.parametrize("seed", range(12))
def test_the_dense_blocks_truth_is_autograds(seed):
    """The chain that the backward cases are judged by, against the package's reference differentiated in float64."""
    d = Draw(seed)
    d.exact, d.dtype = False, torch.float64
    block = dense.draw_block(d)
    d.dtype = torch.float32  # units of the magnitudes
    dense.forward_(block, torch.float64)
    dbuffer = torch.randn(block.buffer.shape, dtype=torch.float64, generator=d.generator)
    dx, grads, _ = dense.backward_truth(block, dbuffer)
    params, eps, frozen, masks = [], [], [], []
    for layer in block.layers:
        for norm, weight in ((layer.norm1, layer.w1), (layer.norm2, layer.w2)):
            if norm is not None:
                ones = torch.ones(norm.mean.shape, dtype=torch.float64)
                params += [ones if norm.gamma is None else norm.gamma.double()]
                params += [0 * ones if norm.beta is None else norm.beta.double()]
                eps.append(norm.eps)
                frozen += [None, None] if norm.batch else [norm.mean.double(), norm.var.double()]
            params += [] if weight is None else [weight]
        masks.append(layer.mask)
    leaves = [t.requires_grad_() for t in (block.x.clone(), *params)]
    rest = (eps, frozen, masks, block.growth, block.bottleneck)
    out = dense_block_train(leaves[0], None, None, leaves[1:], *rest)[0]
    wants = torch.autograd.grad(out, leaves, dbuffer)
    names = ("gamma1", "beta1", "weight1", "gamma2", "beta2", "weight2")
    gots = [dx.value, *(found[name].value for found in grads for name in names if name in found)]
    for got, want in zip(gots, wants, strict=True):
        # The statistics that the kernels are given are float32.
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * want.abs().max().item())
