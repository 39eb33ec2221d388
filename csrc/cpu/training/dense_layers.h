// What forward and backward of a dense block in training share: chunks of pixels, strips of rows.
#pragma once

#include "engine/norm.h"
#include "engine/panels.h"
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

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
