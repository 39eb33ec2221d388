// The convolution that is the gradient of the input of another, with the first half of what follows it in a backward pass as its
// epilogue: the mask of the activation and the sums of the norm, taken while du is on chip.
#pragma once

#include "conv_launch.h"

namespace lightops::cuda {

struct GradientArgs {
  ConvArgs conv;  // x: dy; out: where dz goes, null data: nowhere; residual: what it is added to
  View x;  // what the norm read. Null data: no norm and no activation
  const float *scale, *shift, *mean;  // [C] of the norm; null: z = x
  int act;
  bool scaled;  // dz times scale goes out
  int map_width, step_h, step_w, first_h, first_w;  // of the lattice of outputs
  float* sums;  // of every tile of pixels: [2][C], dz and dz * (x - mean); or null
};

// A window without taps: du is zero.
// du = the convolution, rounded; dz = du * act'(z), z = x * scale + shift; out = residual + (scale *) dz.
struct GradientProblem {
  ConvProblem conv;
  Nhwc x;
  const float *scale = nullptr, *shift = nullptr, *mean = nullptr;
  Act act = Act::none;
  bool scaled = false;
  float* sums = nullptr;
};

struct GradientPlan {
  ConvPlan conv;
  GradientArgs args{};
  int parts = 0;  // tiles of pixels; 0: not for this kernel
};
GradientPlan plan_gradient(const GradientProblem& problem, const Device& device);

Result launch_gradient_f16(const GradientPlan& plan, StreamHandle stream);
Result launch_gradient_bf16(const GradientPlan& plan, StreamHandle stream);
Result launch_gradient_tf32(const GradientPlan& plan, StreamHandle stream);
Result launch_gradient_f32(const GradientPlan& plan, StreamHandle stream);
Result launch_gradient(const GradientPlan& plan, DType type, const Device& device, StreamHandle stream);

}  // namespace lightops::cuda
