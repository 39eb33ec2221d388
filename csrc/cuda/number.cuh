// Element types and the arithmetic each kernel is instantiated for. A row of a shared tile is 128 bytes wide whatever the type:
// 64 halves or 32 floats, so one set of tile, copy and ldmatrix code serves all.
#pragma once

#include "conv_args.h"
#include "intrinsics.cuh"

namespace lightops::cuda {

// Shared memory of a multiprocessor. Code for several architectures is made once, for the oldest: it serves the smallest.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 900 || __CUDA_ARCH__ >= 1200)
constexpr int kSharedBytes = 99 * 1024;
#else
constexpr int kSharedBytes = 227 * 1024;
#endif

struct F16 {
  using Store = uint16_t;
  static constexpr bool kTensorCore = true;
  static LIGHTOPS_DEVICE float load(Store s) { return f16_to_float(s); }
  static LIGHTOPS_DEVICE Store store(float v) { return float_to_f16(v); }
  static LIGHTOPS_DEVICE uint32_t store_pair(float low, float high) { return pack_f16x2(low, high); }
  static LIGHTOPS_DEVICE uint32_t max_word(uint32_t a, uint32_t b) { return max_nan_f16x2(a, b); }
  static LIGHTOPS_DEVICE uint32_t min_word(uint32_t a, uint32_t b) { return min_nan_f16x2(a, b); }
  static constexpr uint32_t kInfinity = 0x7c007c00, kSix = 0x46004600;
  static LIGHTOPS_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b) { mma_f16(d, a, b); }
};

struct BF16 {
  using Store = uint16_t;
  static constexpr bool kTensorCore = true;
  static LIGHTOPS_DEVICE float load(Store s) { return bf16_to_float(s); }
  static LIGHTOPS_DEVICE Store store(float v) { return float_to_bf16(v); }
  static LIGHTOPS_DEVICE uint32_t store_pair(float low, float high) { return pack_bf16x2(low, high); }
  static LIGHTOPS_DEVICE uint32_t max_word(uint32_t a, uint32_t b) { return max_nan_bf16x2(a, b); }
  static LIGHTOPS_DEVICE uint32_t min_word(uint32_t a, uint32_t b) { return min_nan_bf16x2(a, b); }
  static constexpr uint32_t kInfinity = 0x7f807f80, kSix = 0x40c040c0;
  static LIGHTOPS_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b) { mma_bf16(d, a, b); }
};

// fp32 storage, exact fp32 multiply-adds on the ordinary cores.
struct F32 {
  using Store = float;
  static constexpr bool kTensorCore = false;
  static LIGHTOPS_DEVICE float load(Store s) { return s; }
  static LIGHTOPS_DEVICE Store store(float v) { return v; }
  static LIGHTOPS_DEVICE uint32_t max_word(uint32_t a, uint32_t b) {
    return float_to_bits(max_nan(bits_to_float(a), bits_to_float(b)));
  }
  static LIGHTOPS_DEVICE uint32_t min_word(uint32_t a, uint32_t b) {
    return float_to_bits(min_nan(bits_to_float(a), bits_to_float(b)));
  }
  static constexpr uint32_t kInfinity = 0x7f800000, kSix = 0x40c00000;
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

// Two neighbouring values as one word or two.
template <class Math>
struct PairOf {
  using Type = Vec8;  // two floats
};
template <>
struct PairOf<F16> {
  using Type = Word;
};
template <>
struct PairOf<BF16> {
  using Type = Word;
};

// A vector of 32-bit words to floats and back.
template <class Math, class Vec, int kCount>
LIGHTOPS_DEVICE void unpack(const Vec& raw, float (&v)[kCount]) {
  static_assert(kCount * sizeof(typename Math::Store) == sizeof(Vec), "as many values as the vector holds");
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if constexpr (sizeof(typename Math::Store) == 4) v[i] = bits_to_float(raw.w[i]);
    else v[i] = Math::load(static_cast<uint16_t>(raw.w[i / 2] >> (i % 2 * 16)));
  }
}

template <class Math, class Vec, int kCount>
LIGHTOPS_DEVICE void pack(const float (&v)[kCount], Vec& raw) {
  static_assert(kCount * sizeof(typename Math::Store) == sizeof(Vec), "as many values as the vector holds");
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(Vec) / 4); ++i) {
    if constexpr (sizeof(typename Math::Store) == 4) raw.w[i] = float_to_bits(v[i]);
    else raw.w[i] = Math::store_pair(v[2 * i], v[2 * i + 1]);
  }
}
template <class Math>
LIGHTOPS_DEVICE Vec16 pack(const float (&v)[kChunkElements<Math>]) {
  Vec16 raw;
  pack<Math>(v, raw);
  return raw;
}

// An activation by its code in lightops/common.h, on the words that values are packed into. none, relu and relu6 are one clamp, two
// instructions a word, which keeps a NaN; rounding before clamping gives the same. The others are applied before packing.
template <class Math>
struct Activation {
  uint32_t low, high;
  bool smooth, silu;

  explicit LIGHTOPS_DEVICE Activation(int code)
      : low(code == 1 || code == 2 ? 0u
                                   : Math::kInfinity | (sizeof(typename Math::Store) == 4 ? 0x80000000u : 0x80008000u)),
        high(code == 2 ? Math::kSix : Math::kInfinity),
        smooth(code >= 3),
        silu(code == 4) {}

  LIGHTOPS_DEVICE float gated(float v) const {
    const float gate = v + 3.f;
    return silu ? v * reciprocal_approx(1.f + exp_approx(-v))
                : v *
                      (gate < 0.f   ? 0.f
                       : gate > 6.f ? 6.f
                                    : gate) *
                      (1.f / 6.f);
  }
  LIGHTOPS_DEVICE uint32_t clamp(uint32_t word) const { return Math::min_word(Math::max_word(word, low), high); }

  // kSmooth is asked once for a group of values: every thread of the grid answers alike.
  template <bool kSmooth, class Vec, int kCount>
  LIGHTOPS_DEVICE void pack_as(float (&v)[kCount], Vec& raw) const {
    if constexpr (kSmooth) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) v[i] = gated(v[i]);
    }
    lightops::cuda::pack<Math>(v, raw);
    if constexpr (!kSmooth) {
#pragma unroll
      for (int i = 0; i < static_cast<int>(sizeof(Vec) / 4); ++i) raw.w[i] = clamp(raw.w[i]);
    }
  }
  template <class Vec, int kCount>
  LIGHTOPS_DEVICE void pack(float (&v)[kCount], Vec& raw) const {
    if (smooth) pack_as<true>(v, raw);
    else pack_as<false>(v, raw);
  }
  // In fp32, for sums of activated values.
  template <int kCount>
  LIGHTOPS_DEVICE void apply(float (&v)[kCount]) const {
    if (smooth) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) v[i] = gated(v[i]);
    } else {
      const bool positive = low == 0, six = high == Math::kSix;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        v[i] = positive ? max_nan(v[i], 0.f) : v[i];
        v[i] = six ? min_nan(v[i], 6.f) : v[i];
      }
    }
  }
};

// Shared tiles hold `rows` rows of 128 bytes. Chunk c of row r lies at chunk c ^ (r % 8), so that the eight rows an
// ldmatrix phase (or a 128-bit store phase) touches fall into eight different groups of four banks.
// A halo may have another key than the row's number (Tile::key_pitch): a place is a row's offset with its key below it. Places add
// up as rows do, since the sum of two keys does not reach the offset.
constexpr LIGHTOPS_DEVICE int row_place(int row, int key) { return row * kRowBytes + (key & 7); }
LIGHTOPS_DEVICE int row_place(int row) { return row_place(row, row); }
// The same by fewer instructions, where `chunk_bits` is the chunk, four bits up, in a register.
LIGHTOPS_DEVICE int place_offset_of(int place, int chunk_bits) {
  return (place & ~(kRowBytes - 1)) | ((place << 4 ^ chunk_bits) & 7 << 4);
}
LIGHTOPS_DEVICE int place_offset(int place, int chunk) {
  return (place & ~(kRowBytes - 1)) + (((chunk ^ place) & 7) << 4);
}
LIGHTOPS_DEVICE int tile_offset(int row, int chunk) { return row * kRowBytes + ((chunk ^ (row & 7)) << 4); }

}  // namespace lightops::cuda
