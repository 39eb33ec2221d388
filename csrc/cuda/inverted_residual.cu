// MobileNetV2's block as two kernels: the expansion, then depthwise + projection fused. The hidden tensor goes through the workspace:
// kept on chip it would be expanded again for every border that two tiles share.
#include <algorithm>

#include "conv_launch.h"

namespace lightops::cuda {
namespace {

Nhwc hidden_of(const InvertedResidualParams& p) {
  const int64_t row = packed_row(p.hidden, std::max(element_bytes(p.type), 2));
  return {p.workspace, p.x.n, p.x.h, p.x.w, p.hidden, row, p.x.h * p.x.w * row};
}

int64_t hidden_bytes(const InvertedResidualParams& p) {
  const Nhwc h = hidden_of(p);
  return round_up(h.n * h.image * element_bytes(p.type), 256);
}

Conv1x1BnActParams expansion(const InvertedResidualParams& p) {
  Conv1x1BnActParams e;
  e.x = p.x;
  e.out = hidden_of(p);
  e.type = p.type;
  e.weight = p.ex;
  e.bias = p.ex_bias;
  e.act = p.ex_act;
  e.workspace = static_cast<unsigned char*>(p.workspace) + hidden_bytes(p);
  return e;
}

DepthwisePointwiseParams rest(const InvertedResidualParams& p) {
  DepthwisePointwiseParams d;
  d.x = hidden_of(p);
  d.out = p.out;
  d.type = p.type;
  d.dw = p.dw;
  d.dw_bias = p.dw_bias;
  d.dw_act = p.dw_act;
  d.window = p.window;
  d.pw = p.pw;
  d.pw_bias = p.pw_bias;
  d.pw_act = Act::none;
  if (p.residual) d.residual = p.x;
  d.workspace = static_cast<unsigned char*>(p.workspace) + hidden_bytes(p);
  return d;
}

}  // namespace

int64_t inverted_residual_cuda_workspace(const InvertedResidualParams& p, const Device& device) {
  if (element_bytes(p.type) == 0) return 0;
  return hidden_bytes(p) + std::max(conv1x1_bn_act_cuda_workspace(expansion(p), device),
                                    depthwise_pointwise_cuda_workspace(rest(p), device));
}

Result inverted_residual_cuda(const InvertedResidualParams& p, const Device& device, StreamHandle stream) {
  if (element_bytes(p.type) == 0) return {"the CUDA kernels take float16, bfloat16 and float32", 0};
  const Result first = conv1x1_bn_act_cuda(expansion(p), device, stream);
  return first.ok() ? depthwise_pointwise_cuda(rest(p), device, stream) : first;
}

}  // namespace lightops::cuda
