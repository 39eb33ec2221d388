// A dense block in training, on one buffer [N, H, W, C0 + L * k]: layer l reads channels [0, C0 + l k) and writes the next
// k in place. With a bottleneck: conv3x3(relu(bn2(conv1x1(relu(bn1(x)))))); without: conv3x3(relu(bn(x))). Batch norms go by
// the statistics of their own input, which belong to a channel and are taken once, when the channel is written; or by
// frozen ones. Kept for the backward pass: the buffer, the 1x1 outputs before their norm, the statistics. arXiv 1608.06993.
#pragma once

#include "lightops/training/norm.h"
#include "lightops/training/weight.h"

namespace lightops {

struct DenseTrainLayer {
  Norm norm1, norm2;  // mean is never null; norm2 only with a bottleneck
  TrainWeight weight1, weight2;  // [b, C0 + l k, 1, 1], [k, b, 3, 3]; without a bottleneck weight2 [k, C0 + l k, 3, 3]
  Nhwc mask;  // multiplies the new features; null data: none
};

struct DenseBlockTrainParams {
  Nhwc x;  // dense, or a channel slice
  Nhwc buffer;  // dense
  DType type = DType::f32;
  int64_t in_channels = 0;  // C0
  int64_t growth = 0;  // k
  int64_t bottleneck = 0;  // b, 0: none
  int64_t layers = 0;  // at least 1
  const DenseTrainLayer* layer = nullptr;
  Algo algo = Algo::direct;  // of the 3x3s: direct or winograd2
  bool x_known = false;  // the first C0 entries of mean and variance are there already
  void* middle = nullptr;  // [L][N, H, W, b]
  void* mean = nullptr;  // [C0 + L k], and so on
  void* variance = nullptr;
  void* middle_mean = nullptr;  // [L][b]
  void* middle_variance = nullptr;
  void* workspace = nullptr;
  Parallel parallel;
};

int64_t dense_block_train_workspace(const DenseBlockTrainParams& p);
Status dense_block_train_cpu(const DenseBlockTrainParams& p);

// Where gradients of one layer go, in the compute type, weights dense; null: not wanted.
struct DenseTrainGradient {
  void *gamma1 = nullptr, *beta1 = nullptr, *weight1 = nullptr;
  void *gamma2 = nullptr, *beta2 = nullptr, *weight2 = nullptr;
};

// Layers last to first on one gradient buffer. The part a * dz of a batch norm's gradient is added to the prefix at once;
// what follows from its two sums over the batch is a multiple of (x - mean) and a constant per channel, which are summed
// over all layers that read the channel and applied when the channel's own gradient is consumed.
struct DenseBlockTrainBackwardParams {
  DenseBlockTrainParams block;  // the forward pass with its results; x, workspace and parallel are not read
  DType type = DType::f32;
  Nhwc dbuffer;  // of the buffer's size, images dense; not written
  Nhwc dx;  // [N, H, W, C0]; null data: not wanted
  void* gradient = nullptr;  // scratch in the compute type: [N, H, W, C0 + L * k]
  void* dmiddle = nullptr;  // and [N, H, W, b]
  const DenseTrainGradient* gradients = nullptr;  // per layer
  void* workspace = nullptr;
  Parallel parallel;
};

int64_t dense_block_train_backward_workspace(const DenseBlockTrainBackwardParams& p);
Status dense_block_train_backward_cpu(const DenseBlockTrainBackwardParams& p);

}  // namespace lightops
