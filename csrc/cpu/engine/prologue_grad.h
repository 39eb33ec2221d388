// The gradient of a BN+ReLU prologue, in the two steps that the batch statistics cut it into: what is known per pixel at
// once, and what follows when the sums over the whole batch are there.
//
//   z = (x - mean) * invstd * gamma + beta, u = relu(z), dz = du where z > 0
//   dx = a * dz + b * (x - mean) + d,  a = gamma * invstd,  b = -a * invstd^2 * sum(dz (x - mean)) / M,  d = -a * sum(dz) / M
#pragma once

#include "engine/vec.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// Per channel. z is computed as x * scale + shift, exactly as the forward loader does (rows.h), so that both agree on
// which side of zero a value lies.
template <class C> struct NormView {
  const C* scale = nullptr;  // a
  const C* shift = nullptr;
  const C* mean = nullptr;

  NormView at(int64_t c) const { return {scale + c, shift + c, mean + c}; }
};

// out = base + a * dz over a chunk of pixels, and the chunk's sums of dz and dz * (x - mean).
template <class C> struct MaskedAdd {
  const C* du = nullptr;  // may be `out` itself
  int64_t du_stride = 0;
  const void* x = nullptr;
  DType type = DType::f32;
  int64_t x_stride = 0;
  NormView<C> norm;
  const void* base = nullptr;  // of base_type; null: zero
  DType base_type = DType::f32;
  int64_t base_stride = 0;
  C* out = nullptr;
  int64_t out_stride = 0;
  int64_t pixels = 0, channels = 0;
  C* sum = nullptr;  // [channels], added to
  C* product = nullptr;
  // The same pixels' next channels are wanted soon: fetched ahead, since a few lines a pixel are no stream to the hardware.
  bool ahead = false;
};
template <class C> void masked_add(const MaskedAdd<C>& m);

// out = (g + b * (x - mean) + d) * mask: the second step, where a channel's own gradient is consumed. Without b, where all
// norms that read it are frozen, out = g * mask and neither x nor the mean is read: zero times their NaN is none.
template <class C> struct Corrected {
  const void* g = nullptr;
  DType g_type = DType::f32;
  int64_t g_stride = 0;
  const void* x = nullptr;
  DType type = DType::f32;
  int64_t x_stride = 0;
  const C* mean = nullptr;
  const C* b = nullptr;  // null: b = d = 0
  const C* d = nullptr;
  const void* mask = nullptr;  // of `type`, or null
  int64_t mask_stride = 0;
  void* out = nullptr;
  DType out_type = DType::f32;
  int64_t out_stride = 0;
  int64_t pixels = 0, channels = 0;
};
template <class C> void corrected(const Corrected<C>& k);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
