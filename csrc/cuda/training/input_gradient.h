// The gradient of a convolution's input: dx[p, i] = sum over taps and o of dy[q, o] * weight[o, i, tap], where tap of output pixel q
// reads p. At stride 1 it is a convolution of dy with the packed weights of Packing::input_gradient, on the kernels of the forward
// pass. At larger strides the pixels of dx fall into classes, those of one column and row modulo the stride: each is a convolution of
// dy with every stride-th tap.
#pragma once

#include "lightops/training/weight.h"
#include "training/norm.h"

namespace lightops::cuda {

struct InputGradient {
  Nhwc dy;  // [N, H', W', O]
  Nhwc dx;  // [N, H, W, I]
  DType type = DType::f32;
  TrainWeight weight;  // [O, I, kh, kw] by strides, of `type`
  Window window;
  // The gradient goes on through the norm and activation that the input came from (norm.h); norm.du is dx above.
  bool through_norm = false;
  NormGradient norm;
};

// Whether dx above is written; where it is not, it may lie nowhere.
bool stores_input_gradient(const InputGradient& g, const Device& device);
int64_t input_gradient_workspace(const InputGradient& g, const Device& device);
Result run_input_gradient(const InputGradient& g, void* workspace, const Device& device, StreamHandle stream);

}  // namespace lightops::cuda
