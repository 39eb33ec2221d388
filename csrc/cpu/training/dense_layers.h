// What forward and backward of a dense block in training share: chunks of pixels, strips of rows, norms as affine forms.
#pragma once

#include <math.h>

#include "engine/panels.h"
#include "engine/parallel.h"
#include "lightops/training/dense_block.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// Pixels of a chunk of a 1x1: eight rows of register tiles. Chunks depend on the sizes alone: statistics and gradients
// are summed chunk by chunk, and so do not depend on the number of threads.
constexpr int64_t kChunkPixels = 112;

// `total` items in `count` parts whose sizes differ by one at most.
struct Chunks {
  int64_t total, count;

  Chunks(int64_t items, int64_t most) : total(items), count(ceil_div(items, most)) {}
  Share operator[](int64_t i) const { return {total * i / count, total * (i + 1) / count}; }
};

// Strips of output rows of every image, of at most `rows` (a multiple of `grain`) each.
struct Strips {
  int64_t images, height, rows, each;

  Strips(int64_t n, int64_t h, int64_t most, int64_t grain) : images(n), height(h) {
    const int64_t parts = ceil_div(h, most);
    rows = round_up(ceil_div(h, parts), grain);
    each = ceil_div(h, rows);
  }
  int64_t count() const { return images * each; }
  int64_t image(int64_t i) const { return i / each; }
  Share range(int64_t i) const {
    const int64_t first = i % each * rows;
    return {first, first + rows < height ? first + rows : height};
  }
};

template <class C> inline void affine(const Norm& norm, int64_t channels, C* scale, C* shift) {
  const C* gamma = static_cast<const C*>(norm.gamma);
  const C* beta = static_cast<const C*>(norm.beta);
  const C* mean = static_cast<const C*>(norm.mean);
  const C* variance = static_cast<const C*>(norm.var);
  for (int64_t c = 0; c < channels; ++c) {
    const double s = (gamma ? double(gamma[c]) : 1.0) / sqrt(double(variance[c]) + norm.eps);
    scale[c] = C(s);
    shift[c] = C((beta ? double(beta[c]) : 0.0) - double(mean[c]) * s);
  }
}

template <class C> inline WeightView<C> weight_view(const TrainWeight& w, int64_t outputs, int64_t depth) {
  return {static_cast<const C*>(w.data), outputs, depth, w.stride[0], w.stride[1], {w.stride[2], w.stride[3]}, false};
}

// The weight as the gradient of the input reads it.
template <class C> inline WeightView<C> transposed_view(const TrainWeight& w, int64_t outputs, int64_t depth) {
  return {static_cast<const C*>(w.data), outputs, depth, w.stride[1], w.stride[0], {w.stride[2], w.stride[3]}, true};
}

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
