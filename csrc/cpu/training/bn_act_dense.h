// bn_act_conv2d with groups == 1, and what its two directions share: the activated input of a chunk of output pixels,
// weights in the order of the products.
#pragma once

#include "engine/gemm.h"
#include "engine/norm.h"
#include "engine/panels.h"
#include "engine/storage.h"
#include "lightops/training/bn_act_conv2d.h"

namespace lightops {
namespace LIGHTOPS_ISA {

int64_t bn_act_dense_workspace(const BnActConv2dParams& p);
Status bn_act_dense_cpu(const BnActConv2dParams& p);
int64_t bn_act_dense_backward_workspace(const BnActConv2dBackwardParams& p);
Status bn_act_dense_backward_cpu(const BnActConv2dBackwardParams& p);

// The order in which a task goes through what other tasks read too, weights or pixels: the k-th of `all`, begun at the
// task's own place. In step, the later core finds every line in the other's cache instead of L3: the weight gradient of
// 512 x 512 at 14 x 14 took its second core 13% longer.
inline int64_t in_turn(Share all, int64_t k, int64_t task, int64_t tasks) {
  const int64_t i = k + all.size() * task / tasks;
  return i < all.last ? i : i - all.size();
}

// The product for `panels`, begun at the task's own place.
template <class C> void gemm_in_turn(const Gemm<C>& g, Share panels, int64_t task, int64_t tasks) {
  const int64_t start = in_turn(panels, panels.first, task, tasks);
  gemm(g, start, panels.last);
  if (start > panels.first) gemm(g, panels.first, start);
}

// A chunk of u where a product reads it: `outer` rows of `inner` output pixels, `pixel` apart before the stride.
template <class C> struct Strip {
  const C* data = nullptr;
  int64_t row = 0, pixel = 0;
  bool slack = false;  // in scratch: a vector behind the last channel may be read
};

// The input side of the convolution, cut into chunks of output pixels (1x1 without stride or padding: of pixels, across
// rows and images) or output rows.
template <class C> struct Source {
  Nhwc x;
  DType type;
  Window window;
  bool pool;
  int64_t y_h, y_w;
  bool pointwise;
  int64_t padded_width, span;  // of a strip: pixels of a row, rows under one output row
  Cut cut;

  template <class Params>
  Source(const Params& p, const Nhwc& y, int64_t grain)
      : x(p.x), type(p.type), window(p.window), pool(p.pool), y_h(y.h), y_w(y.w) {
    const bool one_tap = window.kernel[0] == 1 && window.kernel[1] == 1 && window.stride[0] == 1 &&
                         window.stride[1] == 1 && window.padding[0] == 0 && window.padding[1] == 0;
    pointwise = one_tap && !pool;
    padded_width = pool ? y_w : x.w + 2 * window.padding[1];
    span = window.dilation[0] * (window.kernel[0] - 1) + 1;
    if (pointwise) {
      // A chunk of u and one of y lie in L2 beside the weights that stream past. Shorter ones read the weights more often and
      // have more to start and to merge: half of this costs 2-6% of a forward pass, and half of the limit on pixels 10% at
      // 32 -> 64, 112 x 112.
      const int64_t wide = x.c > y.c ? x.c : y.c, pixels = x.n * x.h * x.w,
                    fit = kScratchBytes / int64_t(sizeof(C)) / wide;
      const int64_t most = fit < kMaxRows ? kMaxRows : fit > 80 * kMaxRows ? 80 * kMaxRows : fit;
      const bool line = one_line(x) && one_line(y);
      cut = line ? Cut{1, pixels, 1, even_step(pixels, most)} : Cut{x.n, x.h * x.w, 1, most};
    } else {
      const int64_t row = padded_width * x.c, fit = kScratchBytes / 2 / int64_t(sizeof(C));
      int64_t step = pool ? fit / row : (fit / row - span) / window.stride[0] + 1;
      step = step / grain * grain;
      if (step < grain) step = grain;
      if (step > round_up(y_h, grain)) step = round_up(y_h, grain);
      cut = Cut{x.n, y_h, y_w, step};
    }
  }

  // Chunks of equal size whose number comes out even for most numbers of threads, unless they would be shorter than two
  // tiles of the product.
  static int64_t even_step(int64_t pixels, int64_t most) {
    int64_t count = ceil_div(pixels, most);
    for (int64_t grain = 16; grain > 1; grain /= 2) {
      const int64_t even = round_up(count, grain);
      if (pixels / even >= 2 * kMaxRows && even < 2 * count) {
        count = even;
        break;
      }
    }
    return ceil_div(pixels, count);
  }

  bool in_place() const { return type == compute_type<C>; }  // y's gradient needs no conversion
  int64_t outer(int64_t chunk) const { return pointwise ? 1 : cut.height(chunk); }
  int64_t inner(int64_t chunk) const { return pointwise ? cut.height(chunk) : y_w; }
  int64_t strip_rows(int64_t rows) const { return pool ? rows : (rows - 1) * window.stride[0] + span; }
  int64_t elements(int64_t channels) const {
    return pointwise ? cut.step * channels : strip_rows(cut.step) * padded_width * channels;
  }

  // Where a chunk's pixels start in a tensor of y's map (y, dy; with a pointwise source also x, dx).
  int64_t offset(const Nhwc& t, int64_t chunk) const {
    return cut.image(chunk) * t.image + cut.row(chunk) * (pointwise ? t.pixel : t.row());
  }

  // Outputs [first, first + count) of the gradient of a chunk of y in the compute type.
  Strip<C> gradient(const Nhwc& dy, int64_t chunk, int64_t first, int64_t count, C* scratch) const {
    const void* from = at(dy.data, type, offset(dy, chunk) + first);
    if (in_place()) return {static_cast<const C*>(from), dy.row(), dy.pixel, false};
    load_pixels<C>(from, type, dy.pixel, cut.pixels(chunk), count, Prologue<C>{}, scratch);
    return {scratch, y_w * count, count, true};
  }

  // Channels [first, first + count) of u under a chunk; the prologue is that of all channels.
  Strip<C> load(int64_t chunk, Prologue<C> prologue, int64_t first, int64_t count, C* scratch) const {
    if (prologue.scale) {
      prologue.scale += first;
      prologue.shift += first;
    }
    Nhwc part = x;
    part.data = at(x.data, type, first);
    part.c = count;
    const int64_t n = cut.image(chunk), row = cut.row(chunk), rows = cut.height(chunk);
    if (pointwise) {
      const void* from = at(part.data, type, offset(x, chunk));
      if (type == compute_type<C> && prologue.identity()) return {static_cast<const C*>(from), 0, x.pixel, false};
      load_pixels<C>(from, type, x.pixel, rows, count, prologue, scratch);
      return {scratch, 0, count, true};
    }
    const int64_t width = padded_width * count;
    if (pool) {
      for (int64_t i = 0; i < rows; ++i) {
        const char* top = at(part.data, type, n * x.image + 2 * (row + i) * x.row());
        load_pooled_row<C>(top, at(top, type, x.row()), type, x.pixel, y_w, count, prologue, scratch + i * width);
      }
    } else {
      const int64_t top = row * window.stride[0] - window.padding[0];
      for (int64_t i = 0; i < strip_rows(rows); ++i)
        load_padded_row<C>(part, type, n, top + i, window.padding[1], prologue, scratch + i * width);
    }
    return {scratch, width, count, true};
  }
};

// The products read the weight as [K][taps][C] in the compute type: a 1x1 of that type lies so, others are copied.
template <class Params> inline bool in_order(const Params& p, DType compute) {
  return p.type == compute && (p.x.c == 1 || (p.window.kernel[0] == 1 && p.window.kernel[1] == 1));
}
template <class C, class Params> void order_weight(const Params& p, int64_t first, int64_t last, C* out) {
  const int64_t taps = p.window.kernel[0] * p.window.kernel[1], c = p.x.c;
  Storage<C>::with(p.type, [&](auto* tag) {
    const auto* from = static_cast<decltype(tag)>(const_cast<void*>(p.weight));
    for (int64_t o = first; o < last; ++o)
      for (int64_t t = 0; t < taps; ++t)
        for (int64_t i = 0; i < c; ++i) out[(o * taps + t) * c + i] = value_at(from + (o * c + i) * taps + t);
  });
}

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
