// Depthwise-separable convolution in one kernel: the depthwise tile of every channel stays in shared memory and is the A operand of
// the pointwise product, so the tensor between the two is neither written nor read. The depthwise weight is packed
// [taps][row] in the activations' type.
#include "pair_launch.h"

namespace lightops::cuda {
namespace {

PairProblem problem_of(const DepthwisePointwiseParams& p) {
  PairProblem q;
  q.x = p.x;
  q.element_bytes = element_bytes(p.type);
  q.first = First::depthwise;
  q.window = p.window;
  q.first_weight = p.dw;
  q.first_bias = p.dw_bias;
  q.first_act = p.dw_act;
  q.middle = p.x.c;
  q.act = p.pw_act;
  q.output[0] = {p.out, p.residual, p.pw, p.pw_bias, 1, 0};
  return q;
}

}  // namespace

int64_t depthwise_pointwise_cuda_workspace(const DepthwisePointwiseParams& p, const Device& device) {
  return element_bytes(p.type) ? pair_workspace(problem_of(p), device) : 0;
}

Result depthwise_pointwise_cuda(const DepthwisePointwiseParams& p, const Device& device, StreamHandle stream) {
  return run_pair(problem_of(p), p.type, device, p.workspace, stream);
}

}  // namespace lightops::cuda
