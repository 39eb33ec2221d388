// The first layer: 3 input channels, so the reduction runs over (tap, channel) flattened; max-pooling, where there is one,
// happens on the staged output tile, and the convolution's output never reaches memory.
#include "conv_launch.h"

namespace lightops::cuda {
namespace {

ConvProblem problem_of(const StemParams& p) {
  ConvProblem c;
  c.x = p.x;
  c.out = p.out;
  c.element_bytes = element_bytes(p.type);
  c.window = p.window;
  c.weight = p.weight;
  c.bias = p.bias;
  c.act = p.act;
  c.gathered = true;
  c.planar = p.planar;
  c.pooled = p.pooled;
  c.pool = p.pool;
  if (p.planar) c.x.image = p.x.c * p.x.h * p.x.w;
  return c;
}

}  // namespace

int64_t stem_cuda_workspace(const StemParams& p, const Device& device) {
  return element_bytes(p.type) ? conv_workspace(problem_of(p), device) : 0;
}

Result stem_cuda(const StemParams& p, const Device& device, StreamHandle stream) {
  return run_conv(problem_of(p), p.type, device, p.workspace, stream);
}

}  // namespace lightops::cuda
