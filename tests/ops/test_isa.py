"""Every instruction set in the build that this machine can run, not only the best: fuzz and tails in processes of their
own."""

import os
import subprocess
import sys

import pytest

from lightops import _ext

ISAS = [isa for isa in _ext.isas_built() if _ext.cpu_supports(isa)]
# The one that runs by default is what all other tests are about.
OTHERS = [isa for isa in ISAS if isa != _ext.isa()]

# Weights packed where products read pairs, as in an exported program, meet kernels that do not.
PAIRS = """
import torch, lightops
w = torch.ops.lightops.pack_conv2d(torch.ones(4, 2, 1, 1), None, 0, True)
x = torch.ones(1, 2, 3, 3).bfloat16().to(memory_format=torch.channels_last)
try:
    torch.ops.lightops.conv1x1_bn_act(x, w, None, 4, 0, None)
except RuntimeError as error:
    print(error)
"""


def run_with(isa: str, *arguments: str) -> str:
    environment = {**os.environ, "LIGHTOPS_CPU_ISA": isa}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_more_than_one_is_built():
    assert "baseline" in _ext.isas_built() or "neon" in _ext.isas_built()
    assert _ext.isa() in ISAS


@pytest.mark.parametrize("isa", ISAS)
def test_the_one_asked_for_runs(isa):
    assert run_with(isa, "-c", "from lightops import _ext; print(_ext.isa())").strip() == isa


@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa != "v4bf16"])
def test_weights_in_pairs_are_refused_where_no_product_reads_them(isa):
    done = run_with(isa, "-c", PAIRS)
    assert f"conv1x1_bn_act: 'w' is packed in pairs of bfloat16, which the {isa} kernels do not read" in done


@pytest.mark.parametrize("kind", ["exact", "real"])
@pytest.mark.parametrize("isa", OTHERS)
def test_fuzz(isa, kind):
    run_with(isa, "-m", "tests.ops.fuzz", "all", "all", "all", kind, "5000", "2")


# Through a 1x1 convolution whose one weight is 1. The exponential is our own: every lane, both ends of its range.
SILU = """
import torch
from lightops import ops
from lightops.ops import training
ends = [0.0, 1e-30, -1e-30, 88.8, -88.7, -88.8, -103.9, -104.1, float("inf"), float("-inf"), float("nan")]
x = torch.cat([torch.linspace(-110, 110, 300_001), torch.linspace(-1, 1, 100_001), torch.tensor(ends)])
y = ops.conv1x1_bn_act(x.view(1, 1, 1, -1), torch.ones(1, 1, 1, 1), act="silu").flatten()
want = torch.nn.functional.silu(x.double())
usual = want.isfinite() & (x > -87)
assert ((y - want)[usual].abs() <= 4 * 2.0**-24 * want[usual].abs() + 1e-37).all()
assert ((y - want)[(x <= -87) & x.isfinite()].abs() <= 1e-35).all()
assert torch.equal(y.isnan(), want.isnan()) and y[x == float("inf")].isinf().all()
x.requires_grad_()
prologue = training.Prologue(act="silu")
training.bn_act_conv2d(x.view(1, 1, 1, -1), prologue, torch.ones(1, 1, 1, 1))[0].sum().backward()
z = x.detach().double().requires_grad_()
torch.nn.functional.silu(z).sum().backward()
usual = z.grad.isfinite()
# gate * (1 + x * (1 - gate)): the rounding of the gate is multiplied by x.
assert ((x.grad - z.grad)[usual].abs() <= (8 + x.detach().abs()[usual]) * 2.0**-24).all()
"""


@pytest.mark.parametrize("isa", ISAS)
def test_silu_over_its_whole_range(isa):
    run_with(isa, "-c", SILU)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["exact", "real"])
@pytest.mark.parametrize("isa", OTHERS)
def test_fuzz_long(isa, kind):
    run_with(isa, "-m", "tests.ops.fuzz", "all", "all", "all", kind, "6000", "100")


@pytest.mark.parametrize("isa", OTHERS)
def test_tails(isa):
    """Register tiles differ in height and width between instruction sets: each has tails of its own."""
    run_with(
        isa,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not long",
        "-k",
        "test_tails and float32",
        "tests/ops",
    )
