// The matrix product of the CPU path: out[row][o] = act(sum_k a[row][k] * b[k][o] + bias[o]) + residual[row][o].
#pragma once

#include "engine/vec.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// Products of one unbroken chain of multiply-adds. Longer sums are added up from such runs: every addition rounds at the
// size of the partial sum, so a chain of K errs like K, runs like the root of K. At 128 MobileNetV1
// errs by 1.3e-6 (stock PyTorch 1.15e-6, one chain 2.8e-6), the other networks less than stock, and no time is lost.
template <class E> constexpr int64_t kRun = 128;
#if LIGHTOPS_PAIRS
// bfloat16 rounds its products' operands and the result by 2^-9; a chain of this length errs by 2^-14 at the most.
template <> constexpr int64_t kRun<bf16> = 1024;
#endif

// Rows of A are addressed, not copied, so that a kxk convolution over a padded NHWC strip is the same product:
// k runs over `segments` runs of `length` contiguous values (a kernel row is kw * C of them; with dilation, one tap),
// in up to two levels (`taps` inside a kernel row, `segments` kernel rows).
//
// E is what A and B hold: the compute type, or bf16. Then k goes by pairs of neighbours, as one instruction multiplies and
// adds them: `length` is even, and B holds a pair of each column side by side, [ceil(O/32)][K/2][32][2]. Sums are float32.
template <class E> struct Gemm {
  using C = Compute<E>;

  // rows: outer (image rows) x inner (pixels of a row)
  int64_t outer = 1, inner = 0;

  const E* a = nullptr;
  int64_t a_outer = 0, a_inner = 0;
  int64_t segments = 1, segment_stride = 0;
  int64_t taps = 1, tap_stride = 0;
  int64_t length = 0;

  const E* b = nullptr;  // packed panels, [ceil(O/32)][K][32]
  int64_t b_outer = 0;   // non-zero: every outer row has a matrix of its own (the positions of a Winograd tile)
  const E* ahead = nullptr;  // the weights that are read after the last panel; null: not known
  int64_t outputs = 0;
  const C* bias = nullptr;  // [O] or null
  Act act = Act::none;

  void* out = nullptr;
  DType out_type = DType::f32;
  int64_t out_outer = 0, out_inner = 0;

  const void* residual = nullptr;  // same type as out
  int64_t residual_outer = 0, residual_inner = 0;

  int64_t depth() const { return segments * taps * length; }
  int64_t panels() const { return ceil_div(outputs, kPanel); }
};

// Computes panels [first, last) of 32 output channels. Each output is one fused-multiply-add chain in the order of k,
// whatever the tile that holds it: results do not depend on how rows or panels are shared out.
template <class E> void gemm(const Gemm<E>& g, int64_t first, int64_t last);

template <class E> inline void gemm(const Gemm<E>& g) { gemm(g, 0, g.panels()); }

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
