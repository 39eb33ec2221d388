#include "engine/pointwise.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

template <class E> void block(const Pointwise<E>& p, int64_t rows, int64_t width, int64_t first, int64_t last) {
  Gemm<E> g;
  g.outer = rows;
  g.inner = width;
  if (p.in_place()) {
    g.a = static_cast<const E*>(p.x);
    g.a_outer = p.x_row;
    g.a_inner = p.x_pixel;
  } else {
    for (int64_t y = 0; y < rows; ++y)
      load_pixels<E>(at(p.x, p.type, y * p.x_row), p.type, p.x_pixel, width, p.channels, p.prologue,
                     p.scratch + y * width * p.channels);
    g.a = p.scratch;
    g.a_outer = width * p.channels;
    g.a_inner = p.channels;
  }
  g.length = p.channels;
  g.b = p.weights;
  g.outputs = p.outputs;
  g.bias = p.bias;
  g.act = p.act;
  g.out = p.out;
  g.out_type = p.out_type;
  g.out_outer = p.out_row;
  g.out_inner = p.out_pixel;
  g.residual = p.residual;
  g.residual_outer = p.residual_row;
  g.residual_inner = p.residual_pixel;
  gemm(g, first, last);
}

}  // namespace

template <class E> void pointwise(Pointwise<E> p, int64_t first, int64_t last) {
  if (p.rows * p.width == 0) return;  // a task without a share
  const bool one_line = p.x_row == p.width * p.x_pixel && p.out_row == p.width * p.out_pixel &&
                        (!p.residual || p.residual_row == p.width * p.residual_pixel);
  if (one_line) {  // rows that follow each other are one long row: no short tile at the end of each
    p.width *= p.rows;
    p.rows = 1;
  }
  const int64_t pixels = pointwise_pixels<E>(p.channels);
  const int64_t step_rows = p.rows == 1 ? 1 : (pixels / p.width > 1 ? pixels / p.width : 1);
  // Steps of equal size: 49 pixels as 25 + 24, not as 42 + 7, whose last tile would wait on its own sums.
  const int64_t step_width = p.rows == 1 ? ceil_div(p.width, ceil_div(p.width, pixels)) : p.width;
  for (int64_t y = 0; y < p.rows; y += step_rows) {
    for (int64_t x = 0; x < p.width; x += step_width) {
      const int64_t rows = p.rows - y < step_rows ? p.rows - y : step_rows;
      const int64_t width = p.width - x < step_width ? p.width - x : step_width;
      Pointwise<E> part = p;
      part.x = at(p.x, p.type, y * p.x_row + x * p.x_pixel);
      part.out = at(p.out, p.out_type, y * p.out_row + x * p.out_pixel);
      if (p.residual) part.residual = at(p.residual, p.out_type, y * p.residual_row + x * p.residual_pixel);
      block(part, rows, width, first, last);
    }
  }
}

template void pointwise<float>(Pointwise<float>, int64_t, int64_t);
template void pointwise<double>(Pointwise<double>, int64_t, int64_t);
#if LIGHTOPS_PAIRS
template void pointwise<bf16>(Pointwise<bf16>, int64_t, int64_t);
#endif

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
