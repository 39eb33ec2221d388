// Packing weights inside an op, for training: there they change at every step. The packed forms are those of
// lightops/pack.h, made in the compute type by whole rows and vectors.
#pragma once

#include "engine/vec.h"
#include "lightops/training/weight.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// A convolution's weight as the product that is to be packed sees it: `outputs` columns, `depth` input channels and the
// kernel's taps, each with its stride in elements. The gradient of the input is the convolution with outputs and depth
// exchanged and the taps turned round (`flip`).
template <class C> struct WeightView {
  const C* data = nullptr;
  int64_t outputs = 0, depth = 0;
  int64_t output_stride = 0, depth_stride = 0, tap_stride[2] = {0, 0};
  bool flip = false;
};

template <class C> inline WeightView<C> weight_view(const TrainWeight& w, int64_t outputs, int64_t depth) {
  return {static_cast<const C*>(w.data), outputs, depth, w.stride[0], w.stride[1], {w.stride[2], w.stride[3]}, false};
}

// The weight as the gradient of the input reads it: `outputs` are the convolution's inputs.
template <class C> inline WeightView<C> transposed_view(const TrainWeight& w, int64_t outputs, int64_t depth) {
  return {static_cast<const C*>(w.data), outputs, depth, w.stride[1], w.stride[0], {w.stride[2], w.stride[3]}, true};
}

inline int64_t panels1x1_elements(int64_t outputs, int64_t depth) { return round_up(outputs, kPanel) * depth; }
inline int64_t panels3x3_elements(int64_t outputs, int64_t depth, Algo algo) {
  return round_up(outputs, kPanel) * depth * (algo == Algo::winograd2 ? 25 : 9);
}

// Rows [first, last) of the depth of a 1x1, of all panels: packed[panel][k][32]. Threads share the depth: a convolution of
// few outputs has but one panel.
template <class C> void pack_panels1x1(const WeightView<C>& w, int64_t first, int64_t last, C* packed);

// All of the depth of panels [first, last): where tasks share the panels of the product too, each packs those that it reads,
// and no line goes from core to core (1024 x 1024 at 7 x 7, two cores: 1.91 ms forward, 1.78 so).
template <class C> inline void pack_whole_panels1x1(const WeightView<C>& w, int64_t first, int64_t last, C* packed) {
  WeightView<C> part = w;
  part.data += first * kPanel * w.output_stride;
  part.outputs = (last * kPanel < w.outputs ? last * kPanel : w.outputs) - first * kPanel;
  if (part.outputs > 0) pack_panels1x1(part, 0, w.depth, packed + first * kPanel * w.depth);
}

// Rows of the depth of a 3x3, direct or for F(2x2, 3x3) (with the direct form behind it).
template <class C> void pack_panels3x3(const WeightView<C>& w, Algo algo, int64_t first, int64_t last, C* packed);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
