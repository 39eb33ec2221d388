// Pre-activation convolution: batch norm and activation run in the A-loader, once per element of the halo tile.
#include "conv_launch.h"

namespace lightops::cuda {
namespace {

ConvProblem problem_of(const BnReluConv2dParams& p) {
  ConvProblem c;
  c.x = p.x;
  c.out = p.out;
  c.element_bytes = element_bytes(p.type);
  c.window = p.window;
  c.scale = p.scale;
  c.shift = p.shift;
  c.pre_act = p.pre_act;
  c.weight = p.weight;
  c.bias = p.bias;
  c.act = p.act;
  return c;
}

}  // namespace

int64_t bn_relu_conv2d_cuda_workspace(const BnReluConv2dParams& p, const Device& device) {
  return element_bytes(p.type) ? conv_workspace(problem_of(p), device) : 0;
}

Result bn_relu_conv2d_cuda(const BnReluConv2dParams& p, const Device& device, StreamHandle stream) {
  return run_conv(problem_of(p), p.type, device, p.workspace, stream);
}

}  // namespace lightops::cuda
