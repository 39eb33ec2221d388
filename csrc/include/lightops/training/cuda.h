// The CUDA entry points of training, as lightops/cuda.h has those of inference. Params are the CPU's; `parallel` is not read.
//
// Weights are unpacked, by strides, of the activations' type; they are packed on the device within the call. Vectors, sums and
// statistics are float32, gradients of weights and the scratch maps
// that the caller gives of the activations' type. float64 is refused. Results are bitwise the same from run to run.
#pragma once

#include "lightops/cuda.h"
#include "lightops/training/batch_stats.h"
#include "lightops/training/bn_act.h"
#include "lightops/training/bn_act_conv2d.h"
#include "lightops/training/bn_act_max_pool2d.h"
#include "lightops/training/bn_act_mean.h"
#include "lightops/training/dense_block.h"
#include "lightops/training/fire.h"
#include "lightops/training/stem.h"

namespace lightops::cuda {

#define LIGHTOPS_CUDA_OP(name, Params)                                  \
  int64_t name##_cuda_workspace(const Params& p, const Device& device); \
  Result name##_cuda(const Params& p, const Device& device, StreamHandle stream)

LIGHTOPS_CUDA_OP(batch_stats, BatchStatsParams);
LIGHTOPS_CUDA_OP(bn_act, BnActParams);
LIGHTOPS_CUDA_OP(bn_act_backward, BnActBackwardParams);
LIGHTOPS_CUDA_OP(bn_act_conv2d, BnActConv2dParams);
LIGHTOPS_CUDA_OP(bn_act_conv2d_backward, BnActConv2dBackwardParams);
LIGHTOPS_CUDA_OP(bn_act_max_pool2d, BnActMaxPool2dParams);
LIGHTOPS_CUDA_OP(bn_act_max_pool2d_backward, BnActMaxPool2dBackwardParams);
LIGHTOPS_CUDA_OP(bn_act_mean, BnActMeanParams);
LIGHTOPS_CUDA_OP(bn_act_mean_backward, BnActMeanBackwardParams);
LIGHTOPS_CUDA_OP(dense_block_train, DenseBlockTrainParams);
LIGHTOPS_CUDA_OP(dense_block_train_backward, DenseBlockTrainBackwardParams);
LIGHTOPS_CUDA_OP(fire_train, FireTrainParams);
LIGHTOPS_CUDA_OP(fire_train_backward, FireTrainBackwardParams);
LIGHTOPS_CUDA_OP(stem_train, StemTrainParams);
LIGHTOPS_CUDA_OP(stem_train_backward, StemTrainBackwardParams);

#undef LIGHTOPS_CUDA_OP

}  // namespace lightops::cuda
