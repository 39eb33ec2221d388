#include "common.h"

namespace lightops {
namespace cuda_binding {
namespace {

// `algo` chooses between the CPU's sums; the tensor cores have one.
Tensor bn_relu_conv2d(Tensor x, OptionalTensor scale, OptionalTensor shift, int64_t pre_act, Tensor w,
                      OptionalTensor bias, int64_t out_channels, Ints kernel, Ints stride, Ints padding, Ints dilation,
                      int64_t act, int64_t) {
  const Call call("bn_relu_conv2d", x);
  BnReluConv2dParams p;
  p.x = call.image("x", x);
  p.type = call.type;
  p.window = binding::window_of(call.op, kernel, stride, padding, dilation);
  binding::check_fits(call.op, p.window, p.x);
  STD_TORCH_CHECK(scale.has_value() == shift.has_value(), "lightops::", call.op,
                  ": give both 'scale' and 'shift' or neither");
  p.scale = call.vector("scale", scale, p.x.c);
  p.shift = call.vector("shift", shift, p.x.c);
  p.pre_act = binding::act_of(call.op, "pre_act", pre_act);
  p.weight = call.weight("w", w, kernel[0] * kernel[1], out_channels, p.x.c);
  p.bias = call.vector("bias", bias, out_channels);
  p.act = binding::act_of(call.op, "act", act);
  Tensor out = call.new_image(p.x.n, out_channels, p.window.out(0, p.x.h), p.window.out(1, p.x.w));
  if (out.numel() == 0) return out;
  p.out = call.image("out", out);
  call.run(p, cuda::bn_relu_conv2d_cuda_workspace, cuda::bn_relu_conv2d_cuda);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lightops, LIGHTOPS_CUDA_KEY, m) { m.impl("bn_relu_conv2d", TORCH_BOX(&bn_relu_conv2d)); }

}  // namespace cuda_binding
}  // namespace lightops
