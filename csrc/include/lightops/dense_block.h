// A dense block on one buffer [N, H, W, C0 + L * k]: layer l reads channels [0, C0 + l k) and writes the next k in place.
// With a bottleneck (DenseNet-BC): conv3x3(relu(bn2(conv1x1(relu(bn1(x)))))), bn2 folded into the 1x1. Without:
// conv3x3(relu(bn(x))). arXiv 1608.06993.
#pragma once

#include "lightops/common.h"

namespace lightops {

struct DenseLayerWeights {
  const void* scale = nullptr;  // [C0 + l k], of the first batch norm
  const void* shift = nullptr;
  const void* weight1 = nullptr;  // packed [bottleneck, C0 + l k, 1, 1]; null without a bottleneck
  const void* bias1 = nullptr;  // [bottleneck]: the shift of the second batch norm
  const void* weight2 = nullptr;  // packed [k, bottleneck or C0 + l k, 3, 3]
};

struct DenseBlockParams {
  Nhwc buffer;  // the first C0 channels hold the input
  DType type = DType::f32;
  bool pairs = false;  // convolution weights hold pairs of bfloat16 (pack.h); type is bf16
  int64_t in_channels = 0;  // C0
  int64_t growth = 0;  // k
  int64_t bottleneck = 0;  // channels of the 1x1, 0: none
  int64_t layers = 0;
  const DenseLayerWeights* weights = nullptr;
  Algo algo = Algo::direct;  // of the 3x3s
  void* workspace = nullptr;
  Parallel parallel;
};

int64_t dense_block_workspace(const DenseBlockParams& p);
Status dense_block_cpu(const DenseBlockParams& p);

}  // namespace lightops
