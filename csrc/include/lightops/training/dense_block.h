// A dense block in training, on one buffer [N, H, W, C0 + L * k]: layer l reads channels [0, C0 + l k) and writes the next
// k in place. With a bottleneck: conv3x3(relu(bn2(conv1x1(relu(bn1(x)))))); without: conv3x3(relu(bn(x))). Batch norms go by
// the statistics of their own input, which belong to a channel and are taken once, when the channel is written; or by
// frozen ones. Kept for the backward pass: the buffer, the 1x1 outputs before their norm, the statistics. arXiv 1608.06993.
#pragma once

#include "lightops/training/norm.h"

namespace lightops {

// A convolution's weight or its gradient, in the compute type (float32; float64 for float64): [O, I, kh, kw] by strides.
struct TrainWeight {
  void* data = nullptr;
  int64_t stride[4] = {0, 0, 0, 0};
};

struct DenseTrainLayer {
  Norm norm1, norm2;          // mean is never null; norm2 only with a bottleneck
  TrainWeight weight1, weight2;    // [b, C0 + l k, 1, 1], [k, b, 3, 3]; without a bottleneck weight2 [k, C0 + l k, 3, 3]
  Nhwc mask;                       // multiplies the new features; null data: none
};

struct DenseBlockTrainParams {
  Nhwc x;                          // dense, or a channel slice
  Nhwc buffer;                     // dense
  DType type = DType::f32;
  int64_t in_channels = 0;         // C0
  int64_t growth = 0;              // k
  int64_t bottleneck = 0;          // b, 0: none
  int64_t layers = 0;
  const DenseTrainLayer* layer = nullptr;
  Algo algo = Algo::direct;        // of the 3x3s: direct or winograd2
  bool x_known = false;            // the first C0 entries of mean and variance are there already
  void* middle = nullptr;          // [L][N, H, W, b]
  void* mean = nullptr;            // [C0 + L k], and so on
  void* variance = nullptr;
  void* middle_mean = nullptr;     // [L][b]
  void* middle_variance = nullptr;
  void* workspace = nullptr;
  Parallel parallel;
};

int64_t dense_block_train_workspace(const DenseBlockTrainParams& p);
Status dense_block_train_cpu(const DenseBlockTrainParams& p);

}  // namespace lightops
