#include "lightops/bn_relu_conv2d.h"

#include "chain.h"

namespace lightops {
namespace binding {

Tensor bn_relu_conv2d(Tensor x, OptionalTensor scale, OptionalTensor shift, int64_t pre_act, Tensor w,
                      OptionalTensor bias, int64_t out_channels, Ints kernel, Ints stride, Ints padding, Ints dilation,
                      int64_t act, int64_t algo) {
  const char* op = "bn_relu_conv2d";
  BnReluConv2dParams p;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  p.window = window_of(op, kernel, stride, padding, dilation);
  check_fits(op, p.window, p.x);
  p.algo = algo_of(op, algo, p.window);
  STD_TORCH_CHECK(scale.has_value() == shift.has_value(), "lightops::", op,
                  ": give both 'scale' and 'shift' or neither");
  p.scale = data_of(op, "scale", scale, p.type, p.x.c);
  p.shift = data_of(op, "shift", shift, p.type, p.x.c);
  p.pre_act = act_of(op, "pre_act", pre_act);
  p.pairs = pairs_of(op, "w", w, p.type);
  p.weight = weight_of(op, "w", w, p.type, p.pairs, out_channels, p.x.c, kernel[0], kernel[1], p.algo);
  p.bias = data_of(op, "bias", bias, p.type, out_channels);
  p.act = act_of(op, "act", act);
  Tensor out = new_image(p.x.n, out_channels, p.window.out(0, p.x.h), p.window.out(1, p.x.w), x.scalar_type());
  if (out.numel() == 0) return out;
  p.out = image_of(op, "out", out);
  p.parallel = parallel_for_work(out.numel() * p.x.c * kernel[0] * kernel[1]);
  p.workspace = workspace(bn_relu_conv2d_workspace(p));
  bn_relu_conv2d_cpu(p);
  return out;
}

STABLE_TORCH_LIBRARY_FRAGMENT(lightops, m) {
  m.def(
      "bn_relu_conv2d(Tensor x, Tensor? scale, Tensor? shift, int pre_act, Tensor w, Tensor? bias, int out_channels, "
      "int[] kernel, int[] stride, int[] padding, int[] dilation, int act, int algo) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) { m.impl("bn_relu_conv2d", TORCH_BOX(&Recordable<&bn_relu_conv2d>::call)); }

}  // namespace binding
}  // namespace lightops
