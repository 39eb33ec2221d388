#include "lightops/depthwise_pointwise.h"

#include "chain.h"

namespace lightops {
namespace binding {

Tensor depthwise_pointwise(Tensor x, Tensor dw, OptionalTensor dw_bias, Ints kernel, Ints stride, Ints padding,
                           Ints dilation, int64_t dw_act, Tensor pw, OptionalTensor pw_bias, int64_t out_channels,
                           int64_t pw_act, OptionalTensor residual) {
  const char* op = "depthwise_pointwise";
  DepthwisePointwiseParams p;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  p.window = window_of(op, kernel, stride, padding, dilation);
  check_fits(op, p.window, p.x);
  p.dw = data_of(op, "dw", dw, p.type, kernel[0] * kernel[1] * round_up(p.x.c, kGroup));
  p.dw_bias = data_of(op, "dw_bias", dw_bias, p.type, p.x.c);
  p.dw_act = act_of(op, "dw_act", dw_act);
  p.pairs = pairs_of(op, "pw", pw, p.type);
  p.pw = weight_of(op, "pw", pw, p.type, p.pairs, out_channels, p.x.c);
  p.pw_bias = data_of(op, "pw_bias", pw_bias, p.type, out_channels);
  p.pw_act = act_of(op, "pw_act", pw_act);
  const int64_t h = p.window.out(0, p.x.h), w = p.window.out(1, p.x.w);
  if (residual.has_value()) {
    check_size(op, "residual", *residual, {p.x.n, out_channels, h, w});
    STD_TORCH_CHECK(residual->scalar_type() == x.scalar_type(), "lightops::", op,
                    ": 'residual' and 'x' differ in type");
    p.residual = image_of(op, "residual", *residual);
  }
  Tensor out = new_image(p.x.n, out_channels, h, w, x.scalar_type());
  if (out.numel() == 0) return out;
  p.out = image_of(op, "out", out);
  p.parallel = parallel_for_work(p.x.n * h * w * p.x.c * (out_channels + kernel[0] * kernel[1]));
  p.workspace = workspace(depthwise_pointwise_workspace(p));
  depthwise_pointwise_cpu(p);
  return out;
}

STABLE_TORCH_LIBRARY_FRAGMENT(lightops, m) {
  m.def(
      "depthwise_pointwise(Tensor x, Tensor dw, Tensor? dw_bias, int[] kernel, int[] stride, int[] padding, int[] "
      "dilation, "
      "int dw_act, Tensor pw, Tensor? pw_bias, int out_channels, int pw_act, Tensor? residual) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) {
  m.impl("depthwise_pointwise", TORCH_BOX(&Recordable<&depthwise_pointwise>::call));
}

}  // namespace binding
}  // namespace lightops
