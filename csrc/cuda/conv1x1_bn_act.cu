// Pointwise convolution with a folded batch norm: the implicit GEMM with a pointwise A-loader.
#include "conv_launch.h"

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

}  // namespace

int64_t conv1x1_bn_act_cuda_workspace(const Conv1x1BnActParams& p, const Device& device) {
  return element_bytes(p.type) ? conv_workspace(problem_of(p), device) : 0;
}

Result conv1x1_bn_act_cuda(const Conv1x1BnActParams& p, const Device& device, StreamHandle stream) {
  return run_conv(problem_of(p), p.type, device, p.workspace, stream);
}

}  // namespace lightops::cuda
