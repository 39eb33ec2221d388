"""`compile_offline.py CAPABILITY [--table]`: compiles every Triton kernel for a GPU that need not be there, and prints
one JSON line each; `--table`: every configuration of the table, once a kind.

A process of its own: the other tests of this folder run with the interpreter, which replaces the compiler.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lightops.kernels.triton._configs import TABLE
from lightops.kernels.triton._conv import conv_kernel
from lightops.kernels.triton.depthwise_pointwise import depthwise_pointwise_kernel
from lightops.kernels.triton.head import average_kernel
from lightops.kernels.triton.max_pool2d import max_pool_kernel

THREE = {"KH": 3, "KW": 3, "SH": 1, "SW": 1, "PH": 1, "PW": 1, "DH": 1, "DW": 1}
ONE = {"KH": 1, "KW": 1, "SH": 1, "SW": 1, "PH": 0, "PW": 0, "DH": 1, "DW": 1}
CONV = {"PRE_ACT": 1, "SCALED": True, "ACT": 1, "BIASED": True, "RESIDUAL": True, "AVERAGE": False, "FLAT": False,
        "PRECISION": "ieee", "WIDEN": False, "BLOCK_M": 128, "BLOCK_N": 64, "BLOCK_K": 32}  # fmt: skip
PAIR = {"DW_ACT": 1, "PW_ACT": 1, "DW_BIASED": True, "PW_BIASED": True, "RESIDUAL": True, "PRECISION": "ieee",
        "WIDEN": False, "BLOCK_M": 64, "BLOCK_N": 128, "BLOCK_K": 32}  # fmt: skip
WINDOW = {"KH": 3, "KW": 3, "SH": 2, "SW": 2, "PH": 1, "PW": 1}
PLAIN = {"SCALED": False, "PRE_ACT": 0}
VARIANTS = (
    ("3x3 prologue", conv_kernel, THREE | CONV),
    ("1x1", conv_kernel, ONE | CONV | {"BLOCK_N": 128, "BLOCK_K": 64}),
    ("transition", conv_kernel, ONE | CONV | {"SH": 2, "SW": 2, "AVERAGE": True}),
    ("stem", conv_kernel, THREE | CONV | PLAIN | {"FLAT": True}),
    ("depthwise pointwise", depthwise_pointwise_kernel, THREE | PAIR),
    ("average", average_kernel, {"ACT": 1, "SCALED": True, "BLOCK_P": 32, "BLOCK_C": 64}),
    ("max-pool", max_pool_kernel, WINDOW | {"BLOCK_M": 32, "BLOCK_C": 64}),
)
FLOATS = {"scale", "shift", "bias", "dw_bias", "pw_bias"}
HALVES = {"x", "w", "dw", "pw", "residual", "out"}
TENSOR_CORES = {"3x3 prologue", "1x1", "transition", "stem", "depthwise pointwise"}


def source(kernel, constants: dict) -> ASTSource:
    types = {}
    for name in kernel.arg_names:
        kind = "*fp16" if name in HALVES else "*fp32" if name in FLOATS else "i32"
        types[name] = "constexpr" if name in constants else kind
    return ASTSource(kernel, types, constants)


def configurations() -> list[tuple[str, object, dict, dict]]:
    """Kernel, constants and options of every distinct configuration, normalised and with every extra."""
    kinds = {
        "pointwise": (conv_kernel, ONE | CONV),
        "window": (conv_kernel, THREE | CONV),
        "depthwise": (depthwise_pointwise_kernel, THREE | PAIR),
    }
    distinct = dict.fromkeys((kind, blocks) for (kind, *_), row in TABLE.items() for blocks in row)
    made = []
    for kind, b in distinct:
        kernel, constants = kinds[kind]
        blocks = {"BLOCK_M": b.m, "BLOCK_N": b.n, "BLOCK_K": b.k}
        made.append((f"{kind} {b}", kernel, constants | blocks, {"num_warps": b.warps, "num_stages": b.stages}))
    return made


def main(capability: str, table: str | None = None) -> None:
    options = {"num_warps": 4, "num_stages": 3}
    jobs = configurations() if table else [(*variant, options) for variant in VARIANTS]
    for name, kernel, constants, options in jobs:
        built = triton.compile(source(kernel, constants), GPUTarget("cuda", int(capability), 32), options)
        ptx = built.asm["ptx"]
        line = {
            "kernel": name,
            "capability": capability,
            "cubin_bytes": len(built.asm["cubin"]),
            "shared_bytes": built.metadata.shared,
            "multiplies": any(word in ptx for word in ("mma.sync", "wgmma", "tcgen05.mma")),
            "expects": bool(table) or name in TENSOR_CORES,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
