// Batch normalisation in training: how pixels are cut for sums, the affine form that prologues read, the passes forward
// and backward. Statistics are in moments.h.
//
// Everything that is summed over pixels is summed per chunk first, and the chunks' sums are merged in order: the chunks
// are cut by sizes alone, so results do not depend on the number of threads.
#pragma once

#include "engine/parallel.h"
#include "engine/rows.h"
#include "lightops/training/norm.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// `images` maps of `rows` rows of `width` pixels, cut into chunks of up to `step` rows of one image.
struct Cut {
  int64_t images = 1, rows = 0, width = 1, step = 1;

  int64_t per_image() const { return ceil_div(rows, step); }
  int64_t count() const { return images * per_image(); }
  int64_t image(int64_t chunk) const { return chunk / per_image(); }
  int64_t row(int64_t chunk) const { return chunk % per_image() * step; }
  int64_t height(int64_t chunk) const { return rows - row(chunk) < step ? rows - row(chunk) : step; }
  int64_t pixels(int64_t chunk) const { return height(chunk) * width; }
  int64_t total() const { return images * rows * width; }
  void counts(int64_t* pixels_of) const {
    for (int64_t i = 0; i < count(); ++i) pixels_of[i] = pixels(i);
  }
};

// A map whose images follow each other without a gap is one line of pixels.
inline bool one_line(const Nhwc& x) { return x.n == 1 || x.image == x.h * x.row(); }

// Single pixels in chunks of about 128 KiB: what the second of two passes over a chunk reads is still in L2. Rows of a
// Cut of pixels are pixels: chunk at image(i) * x.image + row(i) * x.pixel.
template <class C> inline Cut cut_pixels(const Nhwc& x) {
  const int64_t fit = (int64_t(128) << 10) / int64_t(sizeof(C)) / x.c, step = fit < 16 ? 16 : fit > 1024 ? 1024 : fit;
  return one_line(x) ? Cut{1, x.n * x.h * x.w, 1, step} : Cut{x.n, x.h * x.w, 1, step};
}

// out[c] = sum over chunks of parts[chunk * stride + c].
template <class C> void merge_sums(int64_t chunks, const C* parts, int64_t stride, int64_t channels, C* out);

// The affine form z = x * scale + shift of a norm (identity without one), taken in double.
template <class C> void affine_of(const Norm& norm, int64_t channels, C* scale, C* shift);

// A chunk of pixels of one tensor.
struct Pixels {
  const void* data = nullptr;
  DType type = DType::f32;
  int64_t stride = 0;  // 0: the same pixel everywhere (the gradient of a mean)
};

// out = act(x * scale + shift) + residual (data null: none), all of x's type; out may be x or the residual.
template <class C>
void norm_forward(const Prologue<C>& n, const Pixels& x, const Pixels& residual, int64_t pixels, int64_t channels,
                  void* out, int64_t out_stride);

// The backward of act(norm(x)) at one chunk. With z = x * scale + shift and the gradient du of u = act(z):
//   dz = du * act'(z), the sums of dz and of dz * (x - mean), and dx = dz * a + (x - mean) * b + d.
template <class C> struct NormBackward {
  const C* scale = nullptr;  // null: z = x
  const C* shift = nullptr;
  const C* mean = nullptr;  // null: zero
  Act act = Act::none;
  // Coefficients of dx: a alone for a frozen norm, all three for batch statistics; null where not yet known.
  const C* a = nullptr;
  const C* b = nullptr;
  const C* d = nullptr;

  NormBackward from(int64_t c) const {
    const auto move = [c](const C* v) { return v ? v + c : nullptr; };
    return {move(scale), scale ? shift + c : nullptr, move(mean), act, move(a), move(b), move(d)};
  }
};

// du is of the compute type or of x's; out (dx when a is there, else dz; null: not wanted) is of x's type and may be
// where x's or du's values of that type lie. The sums go to sums[c]
// and sums[sums_stride + c], which are added to; null: not wanted.
template <class C>
void norm_backward(const NormBackward<C>& n, const Pixels& x, const Pixels& du, int64_t pixels, int64_t channels,
                   void* out, int64_t out_stride, C* sums, int64_t sums_stride);

// The second pass over dz that norm_backward stored: out = dz * a + (x - mean) * b + d, in place.
template <class C>
void norm_backward_finish(const NormBackward<C>& n, const Pixels& x, int64_t pixels, int64_t channels, void* dz,
                          int64_t dz_stride);

// From the sums of dz and dz * (x - mean) over `count` pixels: dbeta, dgamma (each may be null) and the coefficients.
// Channels [first, last).
template <class C>
void norm_gradients(const Norm& norm, int64_t count, const C* sum, const C* sum_x, int64_t first, int64_t last,
                    C* dgamma, C* dbeta, C* a, C* b, C* d);

// sums[c] = sum of in[p][c] over pixels (the gradient of a bias).
template <class C>
void column_sums(const void* in, DType type, int64_t stride, int64_t pixels, int64_t channels, C* sums);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
