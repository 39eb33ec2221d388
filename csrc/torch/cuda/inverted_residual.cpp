#include "common.h"

namespace lightops {
namespace cuda_binding {
namespace {

Tensor inverted_residual(Tensor x, Tensor ex, OptionalTensor ex_bias, int64_t hidden, int64_t ex_act, Tensor dw,
                         OptionalTensor dw_bias, Ints kernel, Ints stride, Ints padding, int64_t dw_act, Tensor pw,
                         OptionalTensor pw_bias, int64_t out_channels, bool residual) {
  const Call call("inverted_residual", x);
  InvertedResidualParams p;
  p.x = call.image("x", x);
  p.type = call.type;
  p.window = binding::window_of(call.op, kernel, stride, padding, {1, 1});
  binding::check_fits(call.op, p.window, p.x);
  p.hidden = hidden;
  p.ex = call.weight("ex", ex, 1, hidden, p.x.c);
  p.ex_bias = call.vector("ex_bias", ex_bias, hidden);
  p.ex_act = binding::act_of(call.op, "ex_act", ex_act);
  p.dw = call.weight("dw", dw, kernel[0] * kernel[1], 1, hidden);
  p.dw_bias = call.vector("dw_bias", dw_bias, hidden);
  p.dw_act = binding::act_of(call.op, "dw_act", dw_act);
  p.pw = call.weight("pw", pw, 1, out_channels, hidden);
  p.pw_bias = call.vector("pw_bias", pw_bias, out_channels);
  p.residual = residual;
  const int64_t h = p.window.out(0, p.x.h), w = p.window.out(1, p.x.w);
  STD_TORCH_CHECK(!residual || (h == p.x.h && w == p.x.w && out_channels == p.x.c), "lightops::", call.op,
                  ": the residual adds x of shape ", binding::shape_of(x), " to an output of ", out_channels,
                  " channels, ", h, " x ", w);
  Tensor out = call.new_image(p.x.n, out_channels, h, w);
  if (out.numel() == 0) return out;
  p.out = call.image("out", out);
  call.run(p, cuda::inverted_residual_cuda_workspace, cuda::inverted_residual_cuda);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lightops, LIGHTOPS_CUDA_KEY, m) {
  m.impl("inverted_residual", TORCH_BOX(&inverted_residual));
}

}  // namespace cuda_binding
}  // namespace lightops
