// A dense kxk convolution of a padded NHWC strip that lies in scratch: directly, or by Winograd.
#pragma once

#include "engine/gemm.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// The strip holds pixels of E (see Gemm), dense in channels; output row y reads strip rows y * stride + ky * dilation.
template <class E> struct StripConv {
  using C = Compute<E>;

  const E* in = nullptr;
  int64_t in_row = 0;      // between strip rows, elements
  int64_t in_width = 0;    // padded pixels of a row
  int64_t in_rows = 0;     // strip rows that exist: rows past them count as zeros (Winograd tiles overhang)
  int64_t channels = 0;
  Window window;           // padding is already in the strip
  Algo algo = Algo::direct;

  const E* weights = nullptr;
  const C* bias = nullptr;
  int64_t outputs = 0;
  Act act = Act::none;

  int64_t rows = 0, width = 0;  // of the output
  void* out = nullptr;
  DType out_type = DType::f32;
  int64_t out_row = 0, out_pixel = 0;

  const void* residual = nullptr;
  int64_t residual_row = 0, residual_pixel = 0;

  C* scratch = nullptr;  // winograd_scratch() elements; unused when direct
};

template <class E> inline Gemm<E> direct_product(const StripConv<E>& s) {
  const Window& w = s.window;
  const bool dense = w.dilation[1] == 1;  // the taps of a kernel row are neighbours: one run of kw * C values
  Gemm<E> g;
  g.outer = s.rows;
  g.inner = s.width;
  g.a = s.in;
  g.a_outer = w.stride[0] * s.in_row;
  g.a_inner = w.stride[1] * s.channels;
  g.segments = w.kernel[0];
  g.segment_stride = w.dilation[0] * s.in_row;
  g.taps = dense ? 1 : w.kernel[1];
  g.tap_stride = w.dilation[1] * s.channels;
  g.length = dense ? w.kernel[1] * s.channels : s.channels;
  g.b = s.weights;
  g.outputs = s.outputs;
  g.bias = s.bias;
  g.act = s.act;
  g.out = s.out;
  g.out_type = s.out_type;
  g.out_outer = s.out_row;
  g.out_inner = s.out_pixel;
  g.residual = s.residual;
  g.residual_outer = s.residual_row;
  g.residual_inner = s.residual_pixel;
  return g;
}

// Elements of scratch that a Winograd strip of these sizes needs.
template <class C> int64_t winograd_scratch(Algo algo, int64_t channels, int64_t rows, int64_t width);

// 3x3, stride 1, dilation 1; panels [first, last) of the outputs. Lavin and Gray, arXiv 1509.09308: a tile of m x m
// outputs costs (m+2)^2 multiplies a channel pair instead of 9 m^2. A strip that holds or produces a non-finite value is
// computed again directly (the weights carry both forms), so NaN and Inf come out exactly where a direct sum puts them.
template <class C> void winograd_strip(const StripConv<C>& s, int64_t first, int64_t last);

// The transformed 4 x 4 inputs of tiles [first, first + count) for F(2x2, 3x3): out[position][tile][channel], positions
// `stride` elements apart.
template <class C>
void winograd2_inputs(const StripConv<C>& s, int64_t first, int64_t count, int64_t stride, C* out);

template <class C> inline int64_t strip_scratch(const StripConv<C>& s) {
  return s.algo == Algo::direct ? 0 : winograd_scratch<C>(s.algo, s.channels, s.rows, s.width);
}
template <class C> inline void conv_strip(const StripConv<C>& s, int64_t first, int64_t last) {
  if (s.algo == Algo::direct) gemm(direct_product(s), first, last);
  else winograd_strip(s, first, last);
}

// Pairs go directly: at twice the multiply-adds a cycle the nine taps cost what sixteen positions of floats and their
// transforms do, and they read half the bytes.
inline int64_t strip_scratch(const StripConv<bf16>&) { return 0; }
inline void conv_strip(const StripConv<bf16>& s, int64_t first, int64_t last) { gemm(direct_product(s), first, last); }

template <class E> inline void conv_strip(const StripConv<E>& s) { conv_strip(s, 0, ceil_div(s.outputs, kPanel)); }

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
