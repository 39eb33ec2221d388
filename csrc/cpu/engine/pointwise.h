// A 1x1 convolution over rows of pixels, with an optional prologue: the body of every pointwise product.
#pragma once

#include "engine/gemm.h"
#include "engine/parallel.h"
#include "engine/rows.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// E: what the product reads, see Gemm.
template <class E> struct Pointwise {
  using C = Compute<E>;

  const void* x = nullptr;
  DType type = DType::f32;
  int64_t rows = 1, width = 0;   // pixels
  int64_t x_row = 0, x_pixel = 0;
  int64_t channels = 0;
  Prologue<C> prologue;

  const E* weights = nullptr;
  const C* bias = nullptr;
  int64_t outputs = 0;
  Act act = Act::none;

  void* out = nullptr;
  DType out_type = DType::f32;
  int64_t out_row = 0, out_pixel = 0;
  const void* residual = nullptr;
  int64_t residual_row = 0, residual_pixel = 0;

  E* scratch = nullptr;  // pointwise_scratch() elements

  // Input of the product's type without a prologue is read where it lies.
  bool in_place() const { return type == compute_type<E> && prologue.identity(); }
};

// Pixels whose inputs are in scratch at once. They are read again for every panel of outputs, so they should stay in L2.
template <class E> inline int64_t pointwise_pixels(int64_t channels) {
  const int64_t fit = kScratchBytes / 2 / int64_t(sizeof(E)) / channels / kMaxRows * kMaxRows;
  return fit < kMaxRows ? kMaxRows : fit > 80 * kMaxRows ? 80 * kMaxRows : fit;
}

template <class E> inline int64_t pointwise_scratch(int64_t channels, int64_t width) {
  const int64_t pixels = pointwise_pixels<E>(channels);
  return (pixels > width ? pixels : width) * channels;
}

// Computes panels [first, last) of all pixels.
template <class E> void pointwise(Pointwise<E> p, int64_t first, int64_t last);
template <class E> inline void pointwise(const Pointwise<E>& p) { pointwise(p, 0, ceil_div(p.outputs, kPanel)); }

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
