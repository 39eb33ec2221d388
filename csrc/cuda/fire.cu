// Fire in one kernel: the squeeze tile with its one-pixel border stays in shared memory; the 1x1 expand reads the centre tap of the
// 3x3 expand's tile, and the two write side by side.
#include "pair_launch.h"

namespace lightops::cuda {
namespace {

// `channels` channels of a tensor from `first` on.
Nhwc slice(const Nhwc& t, int64_t first, int64_t channels, int bytes) {
  Nhwc s = t;
  s.c = channels;
  if (t.data) s.data = static_cast<unsigned char*>(t.data) + first * bytes;
  return s;
}

PairProblem problem_of(const FireParams& p) {
  PairProblem q;
  const int bytes = element_bytes(p.type);
  q.x = p.x;
  q.element_bytes = bytes;
  q.window = Window{{3, 3}, {1, 1}, {1, 1}, {1, 1}};
  q.first_weight = p.squeeze;
  q.first_bias = p.squeeze_bias;
  q.middle = p.squeeze_channels;
  q.outputs = 2;
  q.output[0] = {slice(p.out, 0, p.expand1_channels, bytes),
                 slice(p.bypass, 0, p.expand1_channels, bytes),
                 p.expand1,
                 p.expand1_bias,
                 1,
                 4};
  q.output[1] = {slice(p.out, p.expand1_channels, p.expand3_channels, bytes),
                 slice(p.bypass, p.expand1_channels, p.expand3_channels, bytes),
                 p.expand3,
                 p.expand3_bias,
                 9,
                 0};
  return q;
}

}  // namespace

int64_t fire_cuda_workspace(const FireParams& p, const Device& device) {
  return element_bytes(p.type) ? pair_workspace(problem_of(p), device) : 0;
}

Result fire_cuda(const FireParams& p, const Device& device, StreamHandle stream) {
  return run_pair(problem_of(p), p.type, device, p.workspace, stream);
}

}  // namespace lightops::cuda
