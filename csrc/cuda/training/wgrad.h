// The weight gradient of a convolution whose input is normalised and activated as it is read:
//   dweight[o, i, ky, kx] = sum over output pixels p of dy[p, o] * u[p * stride + (ky, kx) * dilation - padding, i],
//   u = pre_act(x * scale + shift), zeros outside the map; average_pool: u averaged over 2x2 pixels first;
//   dbias[o] = sum over output pixels of dy[p, o].
// Any channel counts, strides, dilations and windows of up to 128 taps. Sums are float32, taken in one order: the pixels are
// split over blocks, whose partial sums lie in the workspace until a second kernel adds them. dbias reads dy once more.
#pragma once

#include "lightops/cuda.h"
#include "lightops/training/weight.h"

namespace lightops::cuda {

struct WgradProblem {
  Nhwc x;  // [N, H, W, I], before pre_act and pooling
  Nhwc dy;  // [N, H', W', O]
  DType type = DType::f32;  // of x, dy, dweight and dbias
  const float *scale = nullptr, *shift = nullptr;  // [I], both or neither
  Act pre_act = Act::none;
  bool average_pool = false;  // 1x1 window, stride 1, no padding
  Window window;
  TrainWeight dweight;  // by strides in elements
  void* dbias = nullptr;  // [O] or null
};

int64_t wgrad_workspace(const WgradProblem& p, const Device& device);
Result run_wgrad(const WgradProblem& p, void* workspace, const Device& device, StreamHandle stream);

// TrainWeight of a dense [O, I, kh, kw] tensor.
inline TrainWeight dense_weight(void* data, int64_t in, const Window& w) {
  const int64_t taps = w.kernel[0] * w.kernel[1];
  return {data, {in * taps, taps, w.kernel[1], 1}};
}

}  // namespace lightops::cuda
