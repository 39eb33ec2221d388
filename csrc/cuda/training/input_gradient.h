// The gradient of a convolution's input: dx[p, i] = sum over taps and o of dy[q, o] * weight[o, i, tap], where tap of output pixel q
// reads p. At stride 1 it is a convolution of dy with the packed weights of Packing::input_gradient, on the kernels of the forward
// pass; at larger strides the same after zeros between the pixels of dy.
#pragma once

#include "lightops/cuda.h"
#include "lightops/training/weight.h"

namespace lightops::cuda {

struct InputGradient {
  Nhwc dy;  // [N, H', W', O]
  Nhwc dx;  // [N, H, W, I]
  DType type = DType::f32;
  TrainWeight weight;  // [O, I, kh, kw] by strides, of `type`
  Window window;
};

int64_t input_gradient_workspace(const InputGradient& g, const Device& device);
Result run_input_gradient(const InputGradient& g, void* workspace, const Device& device, StreamHandle stream);

}  // namespace lightops::cuda
