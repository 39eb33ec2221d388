#include "common.h"

namespace lightops {
namespace cuda_binding {
namespace {

Tensor conv1x1_bn_act(Tensor x, Tensor w, OptionalTensor bias, int64_t out_channels, int64_t act,
                      OptionalTensor residual) {
  const Call call("conv1x1_bn_act", x);
  Conv1x1BnActParams p;
  p.x = call.image("x", x);
  p.type = call.type;
  p.weight = call.weight("w", w, 1, out_channels, p.x.c);
  p.bias = call.vector("bias", bias, out_channels);
  p.act = binding::act_of(call.op, "act", act);
  if (residual.has_value()) p.residual = call.image("residual", *residual, {p.x.n, out_channels, p.x.h, p.x.w});
  Tensor out = call.new_image(p.x.n, out_channels, p.x.h, p.x.w);
  if (out.numel() == 0) return out;
  p.out = call.image("out", out);
  call.run(p, cuda::conv1x1_bn_act_cuda_workspace, cuda::conv1x1_bn_act_cuda);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lightops, LIGHTOPS_CUDA_KEY, m) { m.impl("conv1x1_bn_act", TORCH_BOX(&conv1x1_bn_act)); }

}  // namespace cuda_binding
}  // namespace lightops
