// SqueezeNet's Fire module in training: s = relu(WS x + bs); out = relu(W1 s + b1) ++ relu(W3 * s + b3). Nothing but x and
// out is kept: s is computed again. Backward, with the masks from the outputs: d = dout where out > 0;
//   ds = (W1^T d1 + W3^T * d3) where s > 0; dx = WS^T ds;
//   dWS = sum over pixels of ds x, dW1 of d1 s, dW3 of d3 and the shifted s; the biases' gradients are sums of ds, d1, d3.
// arXiv 1602.07360.
#pragma once

#include "lightops/training/weight.h"

namespace lightops {

struct FireTrainParams {
  Nhwc x;  // [N, H, W, C]
  Nhwc out;  // [N, H, W, E1 + E3]
  DType type = DType::f32;
  int64_t squeeze = 0;  // S
  int64_t expand1 = 0;  // E1
  TrainWeight ws, w1, w3;  // [S, C, 1, 1], [E1, S, 1, 1], [E3, S, 3, 3]
  const void* bs = nullptr;  // in the compute type, or null
  const void* b1 = nullptr;
  const void* b3 = nullptr;
  Algo algo = Algo::direct;  // of the 3x3: direct or winograd2
  void* workspace = nullptr;
  Parallel parallel;
};

struct FireTrainBackwardParams {
  Nhwc dout;  // [N, H, W, E1 + E3]
  Nhwc x, out;
  DType type = DType::f32;
  int64_t squeeze_channels = 0;
  int64_t expand1 = 0;
  TrainWeight ws, w1, w3;
  const void* bs = nullptr;
  Algo algo = Algo::direct;
  void* squeeze = nullptr;  // scratch [N, H, W, S] in the compute type
  void* dsqueeze = nullptr;  // likewise; null when none of dx, dws, dbs is wanted
  // What is null is not wanted. Weights and biases dense, in the compute type.
  Nhwc dx;
  void *dws = nullptr, *dbs = nullptr, *dw1 = nullptr, *db1 = nullptr, *dw3 = nullptr, *db3 = nullptr;
  void* workspace = nullptr;
  Parallel parallel;
};

int64_t fire_train_workspace(const FireTrainParams& p);
Status fire_train_cpu(const FireTrainParams& p);
int64_t fire_train_backward_workspace(const FireTrainBackwardParams& p);
Status fire_train_backward_cpu(const FireTrainBackwardParams& p);

}  // namespace lightops
