// What the two directions of bn_act_conv2d with groups == C share: chunks of rows, the per-channel vectors.
#pragma once

#include "engine/depthwise_grad.h"
#include "engine/norm.h"
#include "engine/parallel.h"
#include "engine/rows.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// Work goes by chunks: rows of one image that stay in L2 from pass to pass. The rows of x in a chunk take this much;
// beside them lie their normalised form, their gradient and the rows of y.
constexpr int64_t kChunkBytes = 160 << 10;
// A batch is cut into at least about so many chunks, so that there is something to share, but not into fewer rows than
// these: neighbouring chunks read the rows of the window's overhang twice.
constexpr int64_t kLeastChunks = 16, kLeastRows = 4;

// Chunks of rows of `map`, each of which goes with row_bytes of x: cut by sizes alone.
inline Cut cut_rows(const Nhwc& map, int64_t row_bytes) {
  int64_t step = kChunkBytes / row_bytes, fair = ceil_div(map.n * map.h, kLeastChunks);
  if (fair < kLeastRows) fair = kLeastRows;
  if (step > fair) step = fair;
  if (step > map.h) step = map.h;
  if (step < 1) step = 1;
  return {map.n, map.h, map.w, ceil_div(map.h, ceil_div(map.h, step))};  // of equal size
}

// The per-channel vectors that every task reads.
template <class C> struct DepthwiseShared {
  C *scale = nullptr, *shift = nullptr;  // of the norm; null without one
  C* packed = nullptr;                   // weights
  C* dense = nullptr;                    // weights in the compute type, before and after packing

  DepthwiseShared(Arena& arena, const Norm& norm, int64_t channels, int64_t taps) {
    if (norm.mean) {
      scale = arena.take<C>(channels);
      shift = arena.take<C>(channels);
    }
    packed = arena.take<C>(round_up(channels, kGroup) * taps);
    dense = arena.take<C>(channels * taps);
  }
  template <class Params> void fill(const Params& p, int64_t taps) const {
    if (scale) affine_of<C>(p.norm, p.x.c, scale, shift);
    const bool computed = p.type == compute_type<C>;
    if (!computed) load_pixels<C>(p.weight, p.type, 0, 1, p.x.c * taps, Prologue<C>{}, dense);
    depthwise_pack<C>(computed ? static_cast<const C*>(p.weight) : dense, p.x.c, taps, packed);
  }
  Prologue<C> prologue(Act act) const {
    Prologue<C> u;
    u.scale = scale;
    u.shift = shift;
    u.act = act;
    return u;
  }
};

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
