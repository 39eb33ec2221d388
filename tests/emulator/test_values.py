"""NaN and infinities, empty tensors, and index arithmetic at the 32-bit boundaries."""

import subprocess

import pytest
import torch
from drawing import pack, pack_depthwise
from harness import ACT_CODES, BUILD, DTYPE_CODES, HERE, ROOT, Gpu, host_sources, nhwc_fields, pointer, window_fields
from torch.nn import functional as F

SPECIAL = [float("nan"), float("inf"), float("-inf")]


def nhwc(t: torch.Tensor) -> torch.Tensor:
    return t.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def same(got: torch.Tensor, want: torch.Tensor) -> bool:
    return (
        torch.equal(got.isnan(), want.isnan())
        and torch.equal(got.isposinf(), want.isposinf())
        and torch.equal(got.isneginf(), want.isneginf())
    )


@pytest.mark.parametrize("value", SPECIAL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_convolution_spreads_specials_as_stock_does(emulator, value, dtype):
    x, w = torch.ones(1, 16, 9, 9), torch.ones(8, 16, 3, 3)
    x[0, 3, 4, 4] = value
    scale, shift = torch.ones(16), torch.zeros(16)
    want = F.conv2d(F.relu(x), w, padding=1)
    xv, out, pw = nhwc(x.to(dtype)), nhwc(torch.zeros(1, 8, 9, 9, dtype=dtype)), pack(w, dtype)
    fields = [DTYPE_CODES[dtype], *nhwc_fields(xv), *nhwc_fields(out), pointer(scale), pointer(shift),
        ACT_CODES["relu"],
              pointer(pw), 0, 0, *window_fields(3, 1, 1)]  # fmt: skip
    regions = [(xv, False, "x"), (out, True, "out"), (pw, False, "w"), (scale, False, "scale"), (shift, False, "shift")]
    assert emulator.run("bn_relu_conv2d", fields, regions, Gpu()).faults == []
    assert same(out.float(), want)


@pytest.mark.parametrize("value", SPECIAL)
@pytest.mark.parametrize("act", ["relu", "relu6", "none"])
def test_depthwise_pointwise_spreads_specials_as_stock_does(emulator, value, act):
    x = torch.ones(1, 8, 9, 9)
    x[0, 3, 4, 4] = value
    dw, pw = torch.ones(8, 1, 3, 3), torch.ones(16, 8, 1, 1)
    apply = {"relu": F.relu, "relu6": F.relu6, "none": lambda v: v}[act]
    want = apply(F.conv2d(apply(F.conv2d(x, dw, padding=1, groups=8)), pw))
    dtype = torch.bfloat16
    xv, out = nhwc(x.to(dtype)), nhwc(torch.zeros(1, 16, 9, 9, dtype=dtype))
    pdw, ppw = pack_depthwise(dw, dtype), pack(pw, dtype)
    fields = [DTYPE_CODES[dtype], *nhwc_fields(xv), *nhwc_fields(out), *nhwc_fields(None), pointer(pdw), 0,
        ACT_CODES[act],
              *window_fields(3, 1, 1), pointer(ppw), 0, ACT_CODES[act]]  # fmt: skip
    regions = [(xv, False, "x"), (out, True, "out"), (pdw, False, "dw"), (ppw, False, "pw")]
    assert emulator.run("depthwise_pointwise", fields, regions, Gpu()).faults == []
    assert same(out.float(), want)


@pytest.mark.parametrize("value", SPECIAL)
def test_max_pool_keeps_nan(emulator, value):
    x = torch.ones(1, 3, 20, 20)
    x[0, 0, 9, 9] = value
    w = torch.ones(8, 3, 3, 3)
    want = F.max_pool2d(F.conv2d(x, w, stride=2, padding=1), 3, 2, 1)
    out, pw = nhwc(torch.zeros(*want.shape)), pack(w, torch.float32, flat=True)
    xv = nhwc(x)
    fields = [
        0,
        *nhwc_fields(xv),
        *nhwc_fields(out),
        0,
        pointer(pw),
        0,
        0,
        *window_fields(3, 2, 1),
        1,
        *window_fields(3, 2, 1),
    ]
    assert emulator.run("stem", fields, [(xv, False, "x"), (out, True, "out"), (pw, False, "w")], Gpu()).faults == []
    assert same(out, want)


@pytest.mark.parametrize("shape", [(0, 16, 5, 5), (1, 16, 0, 5), (1, 16, 5, 0)])
def test_empty_tensors_launch_nothing(emulator, shape):
    x, w = torch.empty(shape, dtype=torch.float16), pack(torch.ones(8, 16, 1, 1), torch.float16)
    out = torch.empty(shape[0], 8, *shape[2:], dtype=torch.float16)

    def geometry(t):
        return [
            w.data_ptr(),
            t.shape[0],
            t.shape[2],
            t.shape[3],
            t.shape[1],
            t.shape[1],
            t[0].numel() if len(t) else 0,
        ]

    fields = [DTYPE_CODES[torch.float16], *geometry(x), *geometry(out), *nhwc_fields(None), pointer(w), 0, 1]
    outcome = emulator.run("conv1x1_bn_act", fields, [(w, False, "w")], Gpu())
    assert (outcome.refusal, outcome.faults) == (None, [])


def test_float64_is_refused_with_the_types_that_are_not(emulator):
    fields = [DTYPE_CODES[torch.float64], *[0] * 30]
    assert (
        emulator.run("conv1x1_bn_act", fields, [], Gpu()).refusal
        == "the CUDA kernels take float16, bfloat16 and float32"
    )


def test_index_helpers_and_planner_at_the_boundaries():
    """A C++ program of static and run-time checks around 2^31 and 2^33 (test_index.cpp)."""
    program = BUILD / "test_index"
    BUILD.mkdir(exist_ok=True)
    sources = [
        HERE / "test_index.cpp",
        *sorted((ROOT / "csrc/cuda").glob("plan*.cpp")),
        *host_sources(),
    ]
    includes = [f"-I{HERE / 'host'}", f"-I{ROOT / 'csrc/include'}", f"-I{ROOT / 'csrc/cuda'}"]
    build = [
        "g++",
        "-std=c++17",
        "-O1",
        "-fsanitize=undefined",
        "-fno-sanitize-recover",
        "-DLIGHTOPS_EMULATE",
        "-Wall",
        *includes,
    ]
    subprocess.run([*build, *map(str, sources), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
