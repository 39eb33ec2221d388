// Pointwise convolution with a folded batch norm: the implicit GEMM with a pointwise A-loader.
#include "pair_launch.h"

namespace lightops::cuda {
namespace {

ConvProblem problem_of(const Conv1x1BnActParams& p) {
  ConvProblem c;
  c.x = p.x;
  c.out = p.out;
  c.residual = p.residual;
  c.element_bytes = element_bytes(p.type);
  c.weight = p.weight;
  c.bias = p.bias;
  c.act = p.act;
  return c;
}

// With more output channels than one column tile: the whole input tile stays on chip.
PairProblem resident_problem_of(const Conv1x1BnActParams& p) {
  PairProblem q;
  q.x = p.x;
  q.element_bytes = element_bytes(p.type);
  q.first = First::channels;
  q.middle = p.x.c;
  q.act = p.act;
  q.output[0] = {p.out, p.residual, p.weight, p.bias, 1, 0};
  return q;
}

}  // namespace

int64_t conv1x1_bn_act_cuda_workspace(const Conv1x1BnActParams& p, const Device& device) {
  if (element_bytes(p.type) == 0 || prefer_resident(plan_pair(resident_problem_of(p), device), device)) return 0;
  return conv_workspace(problem_of(p), device);
}

Result conv1x1_bn_act_cuda(const Conv1x1BnActParams& p, const Device& device, StreamHandle stream) {
  if (element_bytes(p.type)) {
    const PairPlan resident = plan_pair(resident_problem_of(p), device);
    if (prefer_resident(resident, device)) return launch_pair(resident, arithmetic_of(p.type, device), stream);
  }
  return run_conv(problem_of(p), p.type, device, p.workspace, stream);
}

}  // namespace lightops::cuda
