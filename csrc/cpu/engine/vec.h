// SIMD through GCC/Clang vector extensions: one source, one object per instruction set (LIGHTOPS_ISA names it).
// Everything lives in the ISA's own namespace and no std:: template is instantiated here: an inline function shared
// between objects could otherwise be linked in its AVX-512 form into the baseline path.
#pragma once

#include <cstdint>
#include <cstring>

#include "lightops/common.h"

#if defined(__AVX512F__) || defined(__AVX__) || defined(__SSE2__)
#include <immintrin.h>
#endif

// GCC 12 reports the deliberately undefined register inside its own AVX-512 intrinsics at every place they inline to.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define LIGHTOPS_INLINE inline __attribute__((always_inline))

namespace lightops {
namespace LIGHTOPS_ISA {

#if defined(__AVX512F__)
constexpr int kVecBytes = 64;
// 14 x 2 accumulators + 2 weight vectors + 1 broadcast fill the 32 registers. 14 divides the maps of the light networks
// (112, 56, 28, 14), so there are no row tails. Measured 124-129 of 132 GMAC/s peak a core (Zen 5, K = 128..512).
constexpr int kMaxRows = 14;
#elif defined(__AVX2__)
constexpr int kVecBytes = 32;
constexpr int kMaxRows = 6;  // 6 x 2 accumulators + 2 + 1 of 16 registers
#elif defined(__aarch64__)
constexpr int kVecBytes = 16;
constexpr int kMaxRows = 12;  // 12 x 2 accumulators + 2 + 1 of 32 registers
#else
constexpr int kVecBytes = 16;
constexpr int kMaxRows = 6;
#endif

typedef float VecF __attribute__((vector_size(kVecBytes)));
typedef double VecD __attribute__((vector_size(kVecBytes)));
typedef uint32_t VecU __attribute__((vector_size(kVecBytes)));
typedef int32_t VecI __attribute__((vector_size(kVecBytes)));
typedef int64_t VecL __attribute__((vector_size(kVecBytes)));
typedef uint16_t VecH __attribute__((vector_size(kVecBytes / 2)));

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

// The type that sums are taken in, and its vector.
template <class C> struct VecOf;
template <> struct VecOf<float> {
  using type = VecF;
  using lanes = VecI;
};
template <> struct VecOf<double> {
  using type = VecD;
  using lanes = VecL;
};
template <class C> using Vec = typename VecOf<C>::type;
template <class C> using Lanes = typename VecOf<C>::lanes;  // of comparisons
template <class C> constexpr int kLanes = kVecBytes / int(sizeof(C));

template <class T> struct ComputeOf { using type = float; };
template <> struct ComputeOf<double> { using type = double; };
template <class T> using Compute = typename ComputeOf<T>::type;

template <int... J> struct Sequence {};
template <int N> struct UpTo;
template <> struct UpTo<2> { using type = Sequence<0, 1>; };
template <> struct UpTo<4> { using type = Sequence<0, 1, 2, 3>; };
template <> struct UpTo<8> { using type = Sequence<0, 1, 2, 3, 4, 5, 6, 7>; };
template <> struct UpTo<16> { using type = Sequence<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>; };
template <class C> using EachLane = typename UpTo<kLanes<C>>::type;

// Lane i is the I[i]-th of a and b laid end to end. GCC knows Clang's form from release 12 on.
template <class C, int... I> LIGHTOPS_INLINE Vec<C> shuffle(Vec<C> a, Vec<C> b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, I...);
#else
  return __builtin_shuffle(a, b, typename VecOf<C>::lanes{I...});
#endif
}

constexpr int64_t kCacheLine = 64;

// Whether products can read bfloat16 in pairs along k: two multiply-adds a lane where a float has one.
#if defined(__AVX512BF16__)
#define LIGHTOPS_PAIRS 1
#else
#define LIGHTOPS_PAIRS 0
#endif

// Keeps a value in a register from here on. GCC otherwise folds a load into every multiply-add that uses it, or keeps
// every address of an unrolled loop alive: in the depthwise kernels that doubled the loads and spilled the addresses.
#if defined(__x86_64__)
template <class V> LIGHTOPS_INLINE void hold_vector(V& v) { asm("" : "+v"(v)); }
#elif defined(__aarch64__)
template <class V> LIGHTOPS_INLINE void hold_vector(V& v) { asm("" : "+w"(v)); }
#else
template <class V> LIGHTOPS_INLINE void hold_vector(V&) {}
#endif
LIGHTOPS_INLINE void hold_integer(int64_t& i) { asm("" : "+r"(i)); }
template <class T> LIGHTOPS_INLINE void hold_pointer(const T*& p) { asm("" : "+r"(p)); }

template <class V, class S> LIGHTOPS_INLINE V bit_cast(S s) {
  static_assert(sizeof(V) == sizeof(S), "bit_cast keeps the size");
  V v;
  memcpy(&v, &s, sizeof v);
  return v;
}

// x - 0 folds to a plain broadcast; 0 + x does not (it would turn -0 into +0).
template <class C> LIGHTOPS_INLINE Vec<C> splat(C x) { return x - Vec<C>{}; }

template <class C> LIGHTOPS_INLINE Vec<C> load(const C* p) {
  Vec<C> v;
  memcpy(&v, p, sizeof v);
  return v;
}
template <class C> LIGHTOPS_INLINE void store(C* p, Vec<C> v) { memcpy(p, &v, sizeof v); }

// A store past the caches, for what is written once and not read soon: no line is fetched to be overwritten. Only where a
// vector is a whole line; p must be aligned. stream_fence() before anybody else reads.
#if defined(__AVX512F__)
constexpr bool kStreams = true;
LIGHTOPS_INLINE void stream(float* p, VecF v) { _mm512_stream_ps(p, __m512(v)); }
LIGHTOPS_INLINE void stream(double* p, VecD v) { _mm512_stream_pd(p, __m512d(v)); }
LIGHTOPS_INLINE void stream_fence() { _mm_sfence(); }
#else
constexpr bool kStreams = false;
template <class C> LIGHTOPS_INLINE void stream(C* p, Vec<C> v) { store(p, v); }
LIGHTOPS_INLINE void stream_fence() {}
#endif

// One instruction each; GCC 12 takes __builtin_convertvector apart into quarters and halves, seven.
#if defined(__AVX512F__)
LIGHTOPS_INLINE VecU widened(VecH h) { return VecU(_mm512_cvtepu16_epi32(__m256i(h))); }
LIGHTOPS_INLINE VecH narrowed(VecU u) { return VecH(_mm512_cvtepi32_epi16(__m512i(u))); }
#elif defined(__AVX2__)
LIGHTOPS_INLINE VecU widened(VecH h) { return VecU(_mm256_cvtepu16_epi32(__m128i(h))); }
LIGHTOPS_INLINE VecH narrowed(VecU u) { return __builtin_convertvector(u, VecH); }
#else
LIGHTOPS_INLINE VecU widened(VecH h) { return __builtin_convertvector(h, VecU); }
LIGHTOPS_INLINE VecH narrowed(VecU u) { return __builtin_convertvector(u, VecH); }
#endif

LIGHTOPS_INLINE VecF load(const bf16* p) {
  VecH h;
  memcpy(&h, p, sizeof h);
  return bit_cast<VecF>(widened(h) << 16);
}

// Round to nearest even; NaN stays NaN (its payload is quieted, never rounded up to infinity). The instruction takes what
// lies below the normal range for zero.
#if LIGHTOPS_PAIRS
LIGHTOPS_INLINE VecH rounded(VecF v) { return VecH(_mm512_cvtneps_pbh(__m512(v))); }
#else
LIGHTOPS_INLINE VecH rounded(VecF v) {
  VecU u = bit_cast<VecU>(v);
  VecU even = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  VecU quiet = (u >> 16) | 0x40u;
  VecU nan = bit_cast<VecU>(v != v);
  return narrowed((nan & quiet) | (~nan & even));
}
#endif
LIGHTOPS_INLINE void store(bf16* p, VecF v) {
  const VecH h = rounded(v);
  memcpy(p, &h, sizeof h);
}

// Half precision in integer arithmetic, so that it needs no hardware conversion: correct everywhere, fast nowhere.
LIGHTOPS_INLINE VecF load(const f16* p) {
  VecH raw;
  memcpy(&raw, p, sizeof raw);
  VecU h = widened(raw);
  VecU sign = (h & 0x8000u) << 16;
  VecU magnitude = (h & 0x7fffu) << 13;
  VecU exponent = magnitude & 0x0f800000u;
  VecU special = bit_cast<VecU>(exponent == 0x0f800000u);  // inf, nan
  VecU normal = magnitude + 0x38000000u + (special & 0x38000000u);
  // Subnormals: place the mantissa under a known exponent and subtract that exponent's value.
  VecF subnormal = bit_cast<VecF>(magnitude + 0x38800000u) - bit_cast<VecF>(VecU{} + 0x38800000u);
  VecU tiny = bit_cast<VecU>(exponent == 0u);
  return bit_cast<VecF>(sign | (tiny & bit_cast<VecU>(subnormal)) | (~tiny & normal));
}

LIGHTOPS_INLINE void store(f16* p, VecF v) {
  VecU u = bit_cast<VecU>(v);
  VecU sign = (u >> 16) & 0x8000u;
  VecU magnitude = u & 0x7fffffffu;
  VecU nan = bit_cast<VecU>(magnitude > 0x7f800000u);
  VecU overflow = bit_cast<VecU>(magnitude >= 0x47800000u);
  // Below the smallest normal half the addition of a known exponent makes the hardware round at the right bit.
  VecF shifted = bit_cast<VecF>(magnitude) + bit_cast<VecF>(VecU{} + 0x3f000000u);
  VecU tiny = bit_cast<VecU>(magnitude < 0x38800000u);
  VecU subnormal = bit_cast<VecU>(shifted) - 0x3f000000u;
  VecU normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  VecU finite = (tiny & subnormal) | (~tiny & normal);
  VecU special = (nan & 0x7e00u) | (~nan & 0x7c00u);
  VecH h = narrowed(sign | (overflow & special) | (~overflow & finite));
  memcpy(p, &h, sizeof h);
}

// The last, partial vector of a row of channels. Lanes past `count` read as zero and are not written.
template <class T> LIGHTOPS_INLINE Vec<Compute<T>> load_partial(const T* p, int64_t count) {
  T full[kVecBytes / sizeof(Compute<T>)] = {};
  for (int64_t i = 0; i < count; ++i) full[i] = p[i];
  return load(full);
}
template <class T> LIGHTOPS_INLINE void store_partial(T* p, Vec<Compute<T>> v, int64_t count) {
  T full[kVecBytes / sizeof(Compute<T>)];
  store(full, v);
  for (int64_t i = 0; i < count; ++i) p[i] = full[i];
}
#if defined(__AVX512F__)
LIGHTOPS_INLINE VecF load_partial(const float* p, int64_t count) {
  return VecF(_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p));
}
LIGHTOPS_INLINE void store_partial(float* p, VecF v, int64_t count) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), __m512(v));
}
LIGHTOPS_INLINE VecF load_partial(const bf16* p, int64_t count) {
  const VecH h = VecH(_mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), p));
  return bit_cast<VecF>(widened(h) << 16);
}
LIGHTOPS_INLINE void store_partial(bf16* p, VecF v, int64_t count) {
  _mm256_mask_storeu_epi16(p, __mmask16((1u << count) - 1), __m256i(rounded(v)));
}
#endif

// count >= lanes means a whole vector.
template <class T> LIGHTOPS_INLINE Vec<Compute<T>> load_upto(const T* p, int64_t count) {
  return count >= kLanes<Compute<T>> ? load(p) : load_partial(p, count);
}
template <class T> LIGHTOPS_INLINE void store_upto(T* p, Vec<Compute<T>> v, int64_t count) {
  if (count >= kLanes<Compute<T>>) store(p, v);
  else store_partial(p, v, count);
}

// max and min that keep a NaN in `v`: the x86 instruction returns its second operand when either is NaN.
template <class V> LIGHTOPS_INLINE V at_least(V v, V low) { return v < low ? low : v; }
template <class V> LIGHTOPS_INLINE V at_most(V v, V high) { return v > high ? high : v; }
#if defined(__AVX512F__)
LIGHTOPS_INLINE VecF at_least(VecF v, VecF low) { return VecF(_mm512_max_ps(__m512(low), __m512(v))); }
LIGHTOPS_INLINE VecF at_most(VecF v, VecF high) { return VecF(_mm512_min_ps(__m512(high), __m512(v))); }
#elif defined(__AVX__)
LIGHTOPS_INLINE VecF at_least(VecF v, VecF low) { return VecF(_mm256_max_ps(__m256(low), __m256(v))); }
LIGHTOPS_INLINE VecF at_most(VecF v, VecF high) { return VecF(_mm256_min_ps(__m256(high), __m256(v))); }
#elif defined(__SSE2__)
LIGHTOPS_INLINE VecF at_least(VecF v, VecF low) { return VecF(_mm_max_ps(__m128(low), __m128(v))); }
LIGHTOPS_INLINE VecF at_most(VecF v, VecF high) { return VecF(_mm_min_ps(__m128(high), __m128(v))); }
#endif

// NaN counts as non-zero.
template <class C> LIGHTOPS_INLINE bool any_nonzero(Vec<C> v) {
  C lanes[kLanes<C>];
  store(lanes, v);
  for (int i = 0; i < kLanes<C>; ++i)
    if (lanes[i] != 0) return true;
  return false;
}
#if defined(__AVX512F__)
template <> LIGHTOPS_INLINE bool any_nonzero<float>(VecF v) {
  return _mm512_cmp_ps_mask(__m512(v), _mm512_setzero_ps(), _CMP_NEQ_UQ) != 0;
}
#endif

// The maximum of a pooling window: a NaN anywhere in it is the result, as in torch.
template <class V> LIGHTOPS_INLINE V pool_max(V best, V v) { return (v > best) | (v != v) ? v : best; }

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
