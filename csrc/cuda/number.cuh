// Element types and the arithmetic each kernel is instantiated for. A row of a shared tile is 64 bytes wide whatever the type:
// 32 halves or 16 floats, so one set of tile, copy and ldmatrix code serves all.
#pragma once

#include "conv_args.h"
#include "intrinsics.cuh"

namespace lightops::cuda {

struct F16 {
  using Store = uint16_t;
  static constexpr bool kTensorCore = true;
  static LIGHTOPS_DEVICE float load(Store s) { return f16_to_float(s); }
  static LIGHTOPS_DEVICE Store store(float v) { return float_to_f16(v); }
  static LIGHTOPS_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b) { mma_f16(d, a, b); }
};

struct BF16 {
  using Store = uint16_t;
  static constexpr bool kTensorCore = true;
  static LIGHTOPS_DEVICE float load(Store s) { return bf16_to_float(s); }
  static LIGHTOPS_DEVICE Store store(float v) { return float_to_bf16(v); }
  static LIGHTOPS_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b) { mma_bf16(d, a, b); }
};

// fp32 storage, exact fp32 multiply-adds on the ordinary cores.
struct F32 {
  using Store = float;
  static constexpr bool kTensorCore = false;
  static LIGHTOPS_DEVICE float load(Store s) { return s; }
  static LIGHTOPS_DEVICE Store store(float v) { return v; }
};

// fp32 storage, operands rounded to tf32 (10 mantissa bits) for the tensor cores: only when the caller allows it.
struct TF32 : F32 {
  static constexpr bool kTensorCore = true;
  static LIGHTOPS_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b) {
    // The tensor core drops the low 13 bits; rounding first halves the error of an operand.
    const uint32_t ra[4] = {round_tf32(a[0]), round_tf32(a[1]), round_tf32(a[2]), round_tf32(a[3])};
    const uint32_t rb[2] = {round_tf32(b[0]), round_tf32(b[1])};
    mma_tf32(d, ra, rb);
  }
};

template <class Math>
constexpr int kChunkElements = kChunkBytes / static_cast<int>(sizeof(typename Math::Store));
template <class Math>
constexpr int kRowElements = kRowChunks * kChunkElements<Math>;

template <class Math>
LIGHTOPS_DEVICE void unpack(const Vec16& raw, float (&v)[kChunkElements<Math>]) {
#pragma unroll
  for (int i = 0; i < kChunkElements<Math>; ++i) {
    if constexpr (sizeof(typename Math::Store) == 4)
      v[i] = bits_to_float(raw.w[i]);
    else
      v[i] = Math::load(static_cast<uint16_t>(raw.w[i / 2] >> (i % 2 * 16)));
  }
}

template <class Math>
LIGHTOPS_DEVICE Vec16 pack(const float (&v)[kChunkElements<Math>]) {
  Vec16 raw{};
#pragma unroll
  for (int i = 0; i < kChunkElements<Math>; ++i) {
    if constexpr (sizeof(typename Math::Store) == 4)
      raw.w[i] = float_to_bits(v[i]);
    else
      raw.w[i / 2] |= static_cast<uint32_t>(Math::store(v[i])) << (i % 2 * 16);
  }
  return raw;
}

// An activation by its code in lightops/common.h. none, relu and relu6 are one clamp; written with comparisons that a NaN
// fails, so that a NaN comes out as NaN (fmaxf(NaN, 0) would give 0).
struct Activation {
  float low, high;
  bool smooth, silu;

  explicit LIGHTOPS_DEVICE Activation(int code)
      : low(code == 1 || code == 2 ? 0.f : bits_to_float(0xff800000u)),
        high(code == 2 ? 6.f : bits_to_float(0x7f800000u)),
        smooth(code >= 3),
        silu(code == 4) {}

  LIGHTOPS_DEVICE float operator()(float v) const {
    if (smooth) {
      const float gate = v + 3.f;
      return silu ? v / (1.f + exp_approx(-v)) : v * (gate < 0.f ? 0.f : gate > 6.f ? 6.f : gate) / 6.f;
    }
    return v < low ? low : v > high ? high : v;
  }
};

// Shared tiles hold `rows` rows of 64 bytes. Chunk c of row r lies at chunk c ^ (r / 2 % 4), so that the eight rows an
// ldmatrix phase (or a 128-bit store phase) touches fall into eight different groups of four banks.
LIGHTOPS_DEVICE int tile_offset(int row, int chunk) { return row * kRowBytes + ((chunk ^ ((row >> 1) & 3)) << 4); }

}  // namespace lightops::cuda
