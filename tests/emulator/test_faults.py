"""The emulator itself: every class of fault has a planted example that it must report, and a right twin that it must
not."""

import ctypes
import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import harness

FAULTS = {
    "read_past_end": "global_out_of_bounds",
    "read_before_start": "global_out_of_bounds",
    "write_past_end": "global_out_of_bounds",
    "misaligned_global": "global_misaligned",
    "write_to_input": "global_read_only",
    "two_blocks_write": "global_race",
    "read_beside_write": "global_race",
    "read_without_arriving": "global_race",
    "write_after_arriving": "global_race",
    "arrive_before_the_others": "global_race",
    "shared_past_end": "shared_out_of_bounds",
    "misaligned_shared": "shared_misaligned",
    "uninitialised": "shared_uninitialised",
    "read_after_write_race": "shared_race",
    "write_after_read_race": "shared_race",
    "write_after_write_race": "shared_race",
    "race_within_a_warp": "shared_race",
    "shuffle_is_no_barrier": "shared_race",
    "named_barrier_of_the_others": "shared_race",
    "async_no_wait": "async_read_before_wait",
    "async_waits_for_older_only": "async_read_before_wait",
    "async_no_barrier": "shared_race",
    "async_over_readers": "shared_race",
    "barrier_in_a_branch": "divergent_barrier",
    "barrier_after_exit": "divergent_barrier",
    "two_barrier_lines": "divergent_barrier",
    "shuffle_in_a_branch": "divergent_collective",
    "mixed_collectives": "divergent_collective",
}
RIGHT = (
    "copy_right",
    "shared_right",
    "warp_sync_right",
    "named_barriers_right",
    "async_right",
    "atomics_right",
    "arrivals_right",
    "strided",
    "bank_conflict",
)


@pytest.fixture(scope="module")
def planted():
    sources = [*harness.host_sources(), harness.HERE / "planted.cpp"]
    library = ctypes.CDLL(str(harness.build(sources=sources, name="libplanted.so")))
    for name in ("planted_run", "planted_names", "planted_counters", "planted_multiply"):
        getattr(library, name).restype = ctypes.c_char_p
    for name in ("convert_f16", "convert_bf16", "convert_tf32"):
        getattr(library, name).restype = ctypes.c_float
        getattr(library, name).argtypes = [ctypes.c_float]
    return library


def run(planted, name, counting=False):
    return {fault["fault"] for fault in json.loads(planted.planted_run(name.encode(), int(counting)))}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_reported(planted, name):
    assert FAULTS[name] in run(planted, name)


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_kernel_is_not_blamed(planted, name):
    assert run(planted, name) == set()


def test_every_planted_kernel_and_every_class_of_fault_is_covered(planted):
    assert set(planted.planted_names().decode().split()) == {*FAULTS, *RIGHT}
    classes = (
        (harness.HERE / "host/memory.cpp").read_text().split("static const char* const names[] = {")[1].split("};")[0]
    )
    assert {name.strip().strip('"') for name in classes.split(",")} == set(FAULTS.values())


def test_a_fault_does_not_spoil_the_next_run(planted):
    for name in FAULTS:
        run(planted, name)
        assert run(planted, "shared_right") == set()


def test_sectors_and_bank_conflicts_are_counted(planted):
    assert run(planted, "copy_right", counting=True) == set()
    counters = json.loads(planted.planted_counters())
    # Two warps of 32 floats: 4 sectors each.
    assert counters["read"]["in"] == {"requested": 256, "sector_bytes": 256, "block_bytes": 256}
    run(planted, "strided", counting=True)
    counters = json.loads(planted.planted_counters())
    # Every lane in a sector of its own.
    assert counters["read"]["in"] == {"requested": 128, "sector_bytes": 1024, "block_bytes": 1024}
    run(planted, "bank_conflict", counting=True)
    counters = json.loads(planted.planted_counters())
    # Words 8 apart: 32 lanes fall on 4 banks.
    assert (counters["shared_wavefronts"], counters["shared_ideal"]) == (8, 1)


@pytest.mark.parametrize(
    ("kind", "dtype", "depth"), [(1, torch.float16, 16), (2, torch.bfloat16, 16), (3, torch.float32, 8)]
)
def test_mma_and_ldmatrix_multiply_matrices(planted, kind, dtype, depth):
    generator = torch.Generator().manual_seed(kind)
    for _ in range(20):
        a = torch.randint(-8, 9, (16, depth), generator=generator).to(dtype)
        b = torch.randint(-8, 9, (8, depth), generator=generator).to(dtype)
        d = torch.randint(-99, 100, (16, 8), generator=generator).float()
        want = d + a.float() @ b.float().T
        pointers = [ctypes.c_void_p(m.data_ptr()) for m in (a, b, d)]
        assert json.loads(planted.planted_multiply(kind, *pointers)) == []
        assert torch.equal(d, want)


@pytest.mark.parametrize(("kind", "dtype"), [(4, torch.float16), (5, torch.bfloat16)])
def test_transposed_ldmatrix_multiplies_matrices(planted, kind, dtype):
    generator = torch.Generator().manual_seed(kind)
    for _ in range(20):
        a = torch.randint(-8, 9, (16, 16), generator=generator).to(dtype)
        b = torch.randint(-8, 9, (16, 8), generator=generator).to(dtype)
        d = torch.randint(-99, 100, (16, 8), generator=generator).float()
        want = d + a.float().T @ b.float()
        pointers = [ctypes.c_void_p(m.data_ptr()) for m in (a, b, d)]
        assert json.loads(planted.planted_multiply(kind, *pointers)) == []
        assert torch.equal(d, want)


def test_tf32_operands_lose_their_low_bits(planted):
    a, b, d = torch.zeros(16, 8), torch.zeros(8, 8), torch.zeros(16, 8)
    a[0, 0], b[0, 0] = 1 + 2.0**-10 + 2.0**-12, 1
    planted.planted_multiply(3, *[ctypes.c_void_p(m.data_ptr()) for m in (a, b, d)])
    assert d[0, 0].item() == 1 + 2.0**-10


@pytest.mark.parametrize(("name", "dtype"), [("convert_f16", torch.float16), ("convert_bf16", torch.bfloat16)])
def test_conversions_round_as_torch_does(planted, name, dtype):
    bits = torch.randint(-(2**31), 2**31, (4000,), generator=torch.Generator().manual_seed(0), dtype=torch.int64).int()
    specials = torch.tensor(
        [0.0, -0.0, 65504, 65519.9, 65520, 1e-8, 5.96e-8, 6.1e-5, 3.3895e38, float("inf"), float("nan")]
    )
    values = torch.cat([bits.view(torch.float32), specials, torch.randn(2000), torch.randn(2000) * 1e-5])
    want = values.to(dtype).float()
    got = torch.tensor([getattr(planted, name)(v) for v in values.tolist()])
    same = (got == want) | (got.isnan() & want.isnan())
    assert same.all(), values[~same][:5]


def test_tf32_rounds_to_nearest_ties_away(planted):
    assert planted.convert_tf32(1 + 2.0**-11) == 1 + 2.0**-10
    assert planted.convert_tf32(-(1 + 2.0**-11)) == -(1 + 2.0**-10)
    assert planted.convert_tf32(1 + 2.0**-12) == 1
