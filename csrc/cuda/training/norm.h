// Batch normalisation in training, for every op that has one: the affine form that loaders apply, the backward pass.
//
// Everything runs on `stream` and allocates nothing; `workspace` holds what the _workspace function says. Sums over pixels are
// taken by blocks whose share depends on sizes alone and are merged in one order, so results are bitwise the same everywhere.
#pragma once

#include "lightops/cuda.h"
#include "lightops/training/norm.h"

namespace lightops::cuda {

// scale = gamma / sqrt(var + eps), shift = beta - mean * scale: z = x * scale + shift. norm.mean must not be null. Kernels that
// take a Norm compute the same numbers, bit for bit, so that a backward pass masks what the forward pass clipped.
Result run_affine(const Norm& norm, int64_t channels, float* scale, float* shift, StreamHandle stream);

// From the gradient du of u = act(norm(x)), with z = norm(x) computed again and dz = du * gain * act'(z):
//   dbeta = sum dz, dgamma = sum dz * xhat,
//   dx = scale * (dz - mean(dz) - xhat * mean(dz * xhat)), or scale * dz for a frozen norm, or dz without one.
struct NormGradient {
  Nhwc du;  // pixel stride 0: the same pixel all over an image
  bool pooled = false;  // du is [N, H / 2, W / 2]: each pixel that of 2x2 of x, zero for what is left of an odd size
  Nhwc x;
  Nhwc dx;  // null data: only the vectors are wanted. May be du itself
  DType type = DType::f32;  // of du and x
  DType dx_type = DType::f32;  // float32 or `type`
  float gain = 1;
  Norm norm;
  Act act = Act::none;
  float *dgamma = nullptr, *dbeta = nullptr;  // null: not wanted
  // A dense block's prefix: dx = before + scale * dz, and what the two sums contribute is left to run_finish_gradient. slope and
  // constant [C] are added to: dx lacks slope * (x - mean) + constant. Both null for a frozen norm.
  bool accumulate = false;
  Nhwc before;  // as dx, which it may be
  float *slope = nullptr, *constant = nullptr;
};
int64_t norm_backward_workspace(const NormGradient& g, const Device& device);
Result run_norm_backward(const NormGradient& g, void* workspace, const Device& device, StreamHandle stream);

// The second half of the sums, for kernels that took them themselves: of dz and of dz * (x - mean), [parts][2][channels]. Null
// pointers: not wanted. dx = scale * dz + slope * (x - mean) + constant, of batch statistics over `pixels`; `accumulate` adds to
// slope and constant.
struct PartialSums {
  const float* sums = nullptr;
  int parts = 0;
  int channels = 0;
  int64_t pixels = 0;
};
Result run_merge_sums(const PartialSums& p, const Norm& norm, float* dgamma, float* dbeta, float* slope,
                      float* constant, bool accumulate, StreamHandle stream);

// dx = scale * dz + slope * (x - mean) + constant: the last pass of run_norm_backward, for kernels that left dz in g.dx.
Result run_norm_finish(const NormGradient& g, const float* slope, const float* constant, StreamHandle stream);

// out = gradient + slope * (x - mean) + constant, per channel. `out` may be the gradient.
Result run_finish_gradient(const Nhwc& gradient, DType gradient_type, const Nhwc& x, DType type, const Nhwc& out,
                           DType out_type, const float* mean, const float* slope, const float* constant,
                           StreamHandle stream);

// The plain form.
inline NormGradient norm_gradient(const Nhwc& du, const Nhwc& x, const Nhwc& dx, DType type, const Norm& norm, Act act,
                                  float* dgamma, float* dbeta) {
  NormGradient g;
  g.du = du;
  g.x = x;
  g.dx = dx;
  g.type = g.dx_type = type;
  g.norm = norm;
  g.act = act;
  g.dgamma = dgamma;
  g.dbeta = dbeta;
  return g;
}
inline int64_t norm_backward_workspace(const Nhwc& du, const Nhwc& x, const Nhwc& dx, DType type, const Norm& norm,
                                       Act act, float* dgamma, float* dbeta, const Device& device) {
  return norm_backward_workspace(norm_gradient(du, x, dx, type, norm, act, dgamma, dbeta), device);
}
inline Result run_norm_backward(const Nhwc& du, const Nhwc& x, const Nhwc& dx, DType type, const Norm& norm, Act act,
                                float* dgamma, float* dbeta, void* workspace, const Device& device,
                                StreamHandle stream) {
  return run_norm_backward(norm_gradient(du, x, dx, type, norm, act, dgamma, dbeta), workspace, device, stream);
}

}  // namespace lightops::cuda
