// Planner of the fused pairs: depthwise + pointwise, pool + pointwise, squeeze + expand, bottleneck + 3x3.
#pragma once

#include "plan.h"

namespace lightops::cuda {

// What fills the tile: a depthwise convolution, the activated 2x2 average, the input itself, or a squeeze product over the halo.
enum class First : int { depthwise, pooled, channels, squeeze };

struct PairPlan {
  const char* refusal = nullptr;
  First first = First::depthwise;
  PairShape shape = PairShape::pixels64;
  ResidentArgs args{};
  int64_t blocks = 0;
  int shares = 1;  // grid y
  int shared = 0;
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
  const void *scale = nullptr, *shift = nullptr;  // prologue on x (not depthwise)
  Act pre_act = Act::none;
  First first = First::squeeze;
  Window window;                               // of the depthwise convolution, or of the one behind the squeeze
  int outputs = 1;
  PairOutput output[2];
};

// Whether a pointwise (or transition) problem should keep its whole input tile on chip: several column tiles would each read
// the input, and the grid fills the chip without splitting the reduction.
bool prefer_resident(const PairPlan& plan, const Device& device);

PairPlan plan_pair(const PairProblem& problem, const Device& device);

// Bytes of activations a pair moves per image when fused (halo counted) over those of two separate kernels.
double fused_traffic_ratio(const PairPlan& plan, const PairProblem& problem);

}  // namespace lightops::cuda
