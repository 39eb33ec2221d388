#include "common.h"

namespace lightops {
namespace cuda_binding {
namespace {

Tensor depthwise_pointwise(Tensor x, Tensor dw, OptionalTensor dw_bias, Ints kernel, Ints stride, Ints padding,
                           Ints dilation, int64_t dw_act, Tensor pw, OptionalTensor pw_bias, int64_t out_channels,
                           int64_t pw_act, OptionalTensor residual) {
  const Call call("depthwise_pointwise", x);
  DepthwisePointwiseParams p;
  p.x = call.image("x", x);
  p.type = call.type;
  p.window = binding::window_of(call.op, kernel, stride, padding, dilation);
  binding::check_fits(call.op, p.window, p.x);
  p.dw = call.weight("dw", dw, kernel[0] * kernel[1], 1, p.x.c);
  p.dw_bias = call.vector("dw_bias", dw_bias, p.x.c);
  p.dw_act = binding::act_of(call.op, "dw_act", dw_act);
  p.pw = call.weight("pw", pw, 1, out_channels, p.x.c);
  p.pw_bias = call.vector("pw_bias", pw_bias, out_channels);
  p.pw_act = binding::act_of(call.op, "pw_act", pw_act);
  const int64_t h = p.window.out(0, p.x.h), w = p.window.out(1, p.x.w);
  if (residual.has_value()) p.residual = call.image("residual", *residual, {p.x.n, out_channels, h, w});
  Tensor out = call.new_image(p.x.n, out_channels, h, w);
  if (out.numel() == 0) return out;
  p.out = call.image("out", out);
  call.run(p, cuda::depthwise_pointwise_cuda_workspace, cuda::depthwise_pointwise_cuda);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lightops, LIGHTOPS_CUDA_KEY, m) {
  m.impl("depthwise_pointwise", TORCH_BOX(&depthwise_pointwise));
}

}  // namespace cuda_binding
}  // namespace lightops
