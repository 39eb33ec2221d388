// A max-pool over NHWC rows with a prologue on its input.
#pragma once

#include "engine/max_pool_row.h"
#include "engine/parallel.h"
#include "engine/rows.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// Tasks share the rows of all output images. Compute-type input without a prologue is read where it lies; other
// rows are converted once into a strip, of which the rows that the next output row needs again are kept.
template <class C, class Params> struct MaxPool {
  const Params& p;  // x, out, type, window, parallel
  Prologue<C> prologue;
  const Window& w = p.window;
  int64_t tasks = p.parallel.threads;
  bool in_place;
  int64_t strip_row = p.x.w * p.x.c;

  // `raw`: the prologue is the identity.
  MaxPool(const Params& params, const Prologue<C>& in, bool raw)
      : p(params), prologue(in), in_place(raw && p.type == compute_type<C>) {}

  C* strip(Arena& arena) const { return in_place ? nullptr : arena.take<C>(w.kernel[0] * strip_row); }
  int64_t task_bytes() const {
    Arena arena;
    strip(arena);
    return apart(arena.used(), tasks);
  }
  int64_t workspace() const { return tasks * task_bytes(); }

  // Makes `strip` hold input rows [first, last) of image n, of which it holds [start, have).
  void fill(int64_t n, int64_t first, int64_t last, int64_t start, int64_t have, C* strip) const {
    if (have > first) {
      memmove(strip, strip + (first - start) * strip_row, size_t((have - first) * strip_row) * sizeof(C));
    } else {
      have = first;
    }
    for (int64_t y = have; y < last; ++y)
      load_pixels<C>(at(p.x.data, p.type, n * p.x.image + y * p.x.row()), p.type, p.x.pixel, p.x.w, p.x.c, prologue,
                     strip + (y - first) * strip_row);
  }

  void run(void* workspace) const {
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      Arena arena(static_cast<char*>(workspace) + task * task_bytes());
      C* const rows = strip(arena);
      const Share part = share(p.x.n * p.out.h, task, tasks);
      int64_t start = 0, have = 0;  // input rows [start, have) of the image are in the strip
      for (int64_t row = part.first; row < part.last; ++row) {
        const int64_t n = row / p.out.h, y = row % p.out.h;
        const int64_t top = y * w.stride[0] - w.padding[0];
        const int64_t first = top < 0 ? 0 : top;
        const int64_t last = top + w.kernel[0] < p.x.h ? top + w.kernel[0] : p.x.h;
        const C* in = rows;
        if (in_place) {
          in = static_cast<const C*>(p.x.data) + n * p.x.image + first * p.x.row();
        } else {
          if (y == 0) start = have = 0;
          fill(n, first, last, start, have, rows);
          start = first;
          have = last;
        }
        max_pool_row<C>(in, in_place ? p.x.row() : strip_row, in_place ? p.x.pixel : p.x.c, last - first, p.x.w, p.x.c,
                        w.kernel[1], w.stride[1], w.padding[1], p.out.w,
                        at(p.out.data, p.type, n * p.out.image + y * p.out.row()), p.type, p.out.pixel);
      }
    });
  }
};

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
