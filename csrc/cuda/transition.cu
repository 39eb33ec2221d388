// DenseNet's transition: batch norm, ReLU and the 2x2 average run in the A-loader, so the 1x1 convolution sees a quarter of the
// pixels and the input is read once.
#include "conv_launch.h"

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

}  // namespace

int64_t transition_cuda_workspace(const TransitionParams& p, const Device& device) {
  return element_bytes(p.type) ? conv_workspace(problem_of(p), device) : 0;
}

Result transition_cuda(const TransitionParams& p, const Device& device, StreamHandle stream) {
  return run_conv(problem_of(p), p.type, device, p.workspace, stream);
}

}  // namespace lightops::cuda
