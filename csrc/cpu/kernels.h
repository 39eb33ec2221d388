// The table of entry points that every instruction set fills (table.cpp) and once/dispatch.cpp chooses from.
#pragma once

#include "lightops/bn_relu_conv2d.h"
#include "lightops/conv1x1_bn_act.h"
#include "lightops/dense_block.h"
#include "lightops/depthwise_pointwise.h"
#include "lightops/fire.h"
#include "lightops/head.h"
#include "lightops/inverted_residual.h"
#include "lightops/max_pool2d.h"
#include "lightops/stem.h"
#include "lightops/training/batch_stats.h"
#include "lightops/training/bn_act.h"
#include "lightops/training/bn_act_conv2d.h"
#include "lightops/training/bn_act_max_pool2d.h"
#include "lightops/training/bn_act_mean.h"
#include "lightops/training/dense_block.h"
#include "lightops/training/dropout_noise.h"
#include "lightops/training/fire.h"
#include "lightops/training/stem.h"
#include "lightops/transition.h"

// The op index of the CPU path.
#define LIGHTOPS_FOR_EACH_OP(X)                                \
  X(batch_stats, BatchStatsParams)                             \
  X(bn_act, BnActParams)                                       \
  X(bn_act_backward, BnActBackwardParams)                      \
  X(bn_act_conv2d, BnActConv2dParams)                          \
  X(bn_act_conv2d_backward, BnActConv2dBackwardParams)         \
  X(bn_act_max_pool2d, BnActMaxPool2dParams)                   \
  X(bn_act_max_pool2d_backward, BnActMaxPool2dBackwardParams)  \
  X(bn_act_mean, BnActMeanParams)                              \
  X(bn_act_mean_backward, BnActMeanBackwardParams)             \
  X(bn_relu_conv2d, BnReluConv2dParams)                        \
  X(conv1x1_bn_act, Conv1x1BnActParams)                        \
  X(dense_block, DenseBlockParams)                             \
  X(dense_block_train, DenseBlockTrainParams)                  \
  X(dense_block_train_backward, DenseBlockTrainBackwardParams) \
  X(depthwise_pointwise, DepthwisePointwiseParams)             \
  X(dropout_noise, DropoutNoiseParams)                         \
  X(fire, FireParams)                                          \
  X(fire_train, FireTrainParams)                               \
  X(fire_train_backward, FireTrainBackwardParams)              \
  X(head, HeadParams)                                          \
  X(inverted_residual, InvertedResidualParams)                 \
  X(max_pool2d, MaxPool2dParams)                               \
  X(stem, StemParams)                                          \
  X(stem_train, StemTrainParams)                               \
  X(stem_train_backward, StemTrainBackwardParams)              \
  X(transition, TransitionParams)

namespace lightops {

struct Kernels {
#define LIGHTOPS_FIELD(op, Params)          \
  int64_t (*op##_workspace)(const Params&); \
  Status (*op##_cpu)(const Params&);
  LIGHTOPS_FOR_EACH_OP(LIGHTOPS_FIELD)
#undef LIGHTOPS_FIELD
};

}  // namespace lightops
