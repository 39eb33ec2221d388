// DenseNet's transition: batch norm, ReLU and the 2x2 average run in the A-loader, so the 1x1 convolution sees a quarter of the
// pixels and the input is read once.
#include "pair_launch.h"

namespace lightops::cuda {
namespace {

ConvProblem problem_of(const TransitionParams& p) {
  ConvProblem c;
  c.x = p.x;
  c.out = p.out;
  c.element_bytes = element_bytes(p.type);
  c.scale = p.scale;
  c.shift = p.shift;
  c.pre_act = Act::relu;
  c.weight = p.weight;
  c.bias = p.bias;
  c.average_pool = true;
  return c;
}

// With more output channels than one column tile: the whole input tile stays on chip.
PairProblem resident_problem_of(const TransitionParams& p) {
  PairProblem q;
  q.x = p.x;
  q.element_bytes = element_bytes(p.type);
  q.first = First::pooled;
  q.scale = p.scale;
  q.shift = p.shift;
  q.pre_act = Act::relu;
  q.middle = p.x.c;
  q.act = Act::none;
  q.output[0] = {p.out, {}, p.weight, p.bias, 1, 0};
  return q;
}

}  // namespace

int64_t transition_cuda_workspace(const TransitionParams& p, const Device& device) {
  if (element_bytes(p.type) == 0 || prefer_resident(plan_pair(resident_problem_of(p), device), device)) return 0;
  return conv_workspace(problem_of(p), device);
}

Result transition_cuda(const TransitionParams& p, const Device& device, StreamHandle stream) {
  if (element_bytes(p.type)) {
    const PairPlan resident = plan_pair(resident_problem_of(p), device);
    if (prefer_resident(resident, device)) return launch_pair(resident, arithmetic_of(p.type, device), stream);
  }
  return run_conv(problem_of(p), p.type, device, p.workspace, stream);
}

}  // namespace lightops::cuda
