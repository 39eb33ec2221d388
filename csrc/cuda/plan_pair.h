// Planner of the fused pairs: depthwise + pointwise, squeeze + expand.
#pragma once

#include "plan.h"

namespace lightops::cuda {

// What fills the tile: a depthwise convolution, or a squeeze product over the halo.
enum class First : int { depthwise, squeeze };

struct PairPlan {
  const char* refusal = nullptr;
  First first = First::depthwise;
  PairShape shape = PairShape::pixels64;
  ResidentArgs args{};
  int64_t blocks = 0;
  int shares = 1;  // grid y
  int splits = 1;  // grid z
  int shared = 0;
  int64_t workspace = 0;  // bytes
};

struct PairOutput {
  Nhwc out, residual;
  const void *weight = nullptr, *bias = nullptr;
  int taps = 1, first_tap = 0;
};

struct PairProblem {
  Nhwc x;
  int element_bytes = 4;
  Act first_act = Act::relu, act = Act::relu;
  const void *first_weight = nullptr, *first_bias = nullptr;
  int64_t middle = 0;                          // channels between the two convolutions
  const void *scale = nullptr, *shift = nullptr;  // prologue on x (squeeze only)
  Act pre_act = Act::none;
  First first = First::squeeze;
  Window window;                               // of the depthwise convolution, or of the one behind the squeeze
  int outputs = 1;
  PairOutput output[2];
};

PairPlan plan_pair(const PairProblem& problem, const Device& device);

}  // namespace lightops::cuda
