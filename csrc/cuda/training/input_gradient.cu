#include "training/input_gradient.h"

#include <algorithm>

#include "conv_launch.h"
#include "training/channel_pass.h"
#include "training/masked_gradient.h"
#include "training/pack.h"

namespace lightops::cuda {
namespace {

// Along one axis: the taps that pixels `rest` modulo the stride are hit by are first, first + step, ... With q = pixel / stride, the t-th
// of them from the last on reads dy at q - padding + t * dilation.
struct Taps { int64_t count = 0, first = 0, step = 1, padding = 0, dilation = 1; };
Taps taps_of(const Window& w, int axis, int64_t rest) {
  const int64_t stride = w.stride[axis], dilation = w.dilation[axis], kernel = w.kernel[axis];
  const auto hit = [&](int64_t tap) { return (rest + w.padding[axis] - tap * dilation) % stride == 0; };
  Taps taps;
  while (taps.first < kernel && !hit(taps.first)) ++taps.first;
  if (taps.first == kernel) return {};
  while (taps.first + taps.step < kernel && !hit(taps.first + taps.step)) ++taps.step;
  taps.count = (kernel - taps.first - 1) / taps.step + 1;
  // With one tap there is no distance; `step` may then be none of the progression's.
  if (taps.count > 1) taps.dilation = taps.step * dilation / stride;
  const int64_t reach = (rest + w.padding[axis] - taps.first * dilation) / stride;
  taps.padding = (taps.count - 1) * taps.dilation - reach;
  return taps;
}

// One class of pixels of dx: a convolution of dy, and its weights.
struct Part {
  PackProblem pack;
  ConvProblem conv;
};

struct InputPlan {
  std::vector<Part> parts;
  MaskedGradient masked;
  bool through_masked;
  void* rest = nullptr;
  int64_t workspace = 0;
};

Part part_of(const InputGradient& g, int64_t rest_h, int64_t rest_w) {
  const Window& w = g.window;
  const Taps taps[2] = {taps_of(w, 0, rest_h), taps_of(w, 1, rest_w)};
  const bool lattice = w.stride[0] > 1 || w.stride[1] > 1;
  Part part;
  PackProblem& p = part.pack;
  p.weight = g.weight;
  if (p.weight.data)
    p.weight.data = static_cast<unsigned char*>(p.weight.data) +
                    (taps[0].first * p.weight.stride[2] + taps[1].first * p.weight.stride[3]) * element_bytes(g.type);
  p.out = g.dy.c;
  p.in = g.dx.c;
  p.type = g.type;
  p.packing = Packing::input_gradient;
  ConvProblem& c = part.conv;
  c.x = g.dy;
  c.out = g.dx;
  c.out.h = ceil_div(g.dx.h - rest_h, w.stride[0]);
  c.out.w = ceil_div(g.dx.w - rest_w, w.stride[1]);
  c.element_bytes = element_bytes(g.type);
  const int64_t rest[2] = {rest_h, rest_w};
  for (int axis = 0; axis < 2; ++axis) {
    p.kernel[axis] = c.window.kernel[axis] = taps[axis].count;
    p.weight.stride[2 + axis] *= taps[axis].step;
    c.window.dilation[axis] = taps[axis].dilation;
    c.window.padding[axis] = taps[axis].padding;
    c.lattice.step[axis] = w.stride[axis];
    c.lattice.first[axis] = rest[axis];
  }
  if (lattice) c.lattice.width = g.dx.w;
  return part;
}

InputPlan plan_input(const InputGradient& g, void* workspace, const Device& device) {
  InputPlan plan;
  Pieces pieces(static_cast<unsigned char*>(workspace));
  for (int64_t y = 0; y < std::min(g.window.stride[0], g.dx.h); ++y)
    for (int64_t x = 0; x < std::min(g.window.stride[1], g.dx.w); ++x) {
      Part part = part_of(g, y, x);
      part.conv.weight = pieces.take<unsigned char>(packed_bytes(part.pack));
      plan.parts.push_back(part);
      plan.masked.convs.push_back(part.conv);
    }
  const bool lattice = g.window.stride[0] > 1 || g.window.stride[1] > 1;
  plan.through_masked = g.through_norm || lattice;
  if (g.through_norm) {
    plan.masked.norm = g.norm;
  } else {
    Nhwc nothing = g.dx;
    nothing.data = nullptr;
    plan.masked.norm = norm_gradient(g.dx, nothing, g.dx, g.type, Norm{}, Act::none, nullptr, nullptr);
  }
  plan.rest = pieces.take<unsigned char>(plan.through_masked ? masked_gradient_workspace(plan.masked, device)
                                                             : conv_workspace(plan.masked.convs[0], device));
  plan.workspace = pieces.used;
  return plan;
}

}  // namespace

bool stores_input_gradient(const InputGradient& g, const Device& device) {
  return !g.through_norm || !masks_in_place(plan_input(g, nullptr, device).masked, device);
}

int64_t input_gradient_workspace(const InputGradient& g, const Device& device) {
  return element_bytes(g.type) ? plan_input(g, nullptr, device).workspace : 0;
}

Result run_input_gradient(const InputGradient& g, void* workspace, const Device& device, StreamHandle stream) {
  if (element_bytes(g.type) == 0) return {"the CUDA kernels take float16, bfloat16 and float32", 0};
  const InputPlan plan = plan_input(g, workspace, device);
  std::vector<PackJob> weights;
  for (const Part& part : plan.parts) weights.push_back({part.pack, const_cast<void*>(part.conv.weight)});
  const Result result = run_packs(weights, stream);
  if (!result.ok()) return result;
  return plan.through_masked ? run_masked_gradient(plan.masked, plan.rest, device, stream)
                             : run_conv(plan.masked.convs[0], g.type, device, plan.rest, stream);
}

}  // namespace lightops::cuda
