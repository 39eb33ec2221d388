#include "lightops/inverted_residual.h"

#include "chain.h"

namespace lightops {
namespace binding {

Tensor inverted_residual(Tensor x, Tensor ex, OptionalTensor ex_bias, int64_t hidden, int64_t ex_act, Tensor dw,
                         OptionalTensor dw_bias, Ints kernel, Ints stride, Ints padding, int64_t dw_act, Tensor pw,
                         OptionalTensor pw_bias, int64_t out_channels, bool residual) {
  const char* op = "inverted_residual";
  InvertedResidualParams p;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  p.window = window_of(op, kernel, stride, padding, {1, 1});
  check_fits(op, p.window, p.x);
  p.hidden = hidden;
  p.pairs = pairs_of(op, "ex", ex, p.type);
  p.ex = weight_of(op, "ex", ex, p.type, p.pairs, hidden, p.x.c);
  p.ex_bias = data_of(op, "ex_bias", ex_bias, p.type, hidden);
  p.ex_act = act_of(op, "ex_act", ex_act);
  p.dw = data_of(op, "dw", dw, p.type, kernel[0] * kernel[1] * round_up(hidden, kGroup));
  p.dw_bias = data_of(op, "dw_bias", dw_bias, p.type, hidden);
  p.dw_act = act_of(op, "dw_act", dw_act);
  p.pw = weight_of(op, "pw", pw, p.type, p.pairs, out_channels, hidden);
  p.pw_bias = data_of(op, "pw_bias", pw_bias, p.type, out_channels);
  p.residual = residual;
  const int64_t h = p.window.out(0, p.x.h), w = p.window.out(1, p.x.w);
  STD_TORCH_CHECK(!residual || (h == p.x.h && w == p.x.w && out_channels == p.x.c), "lightops::", op,
                  ": the residual adds x of shape ", shape_of(x), " to an output of ", out_channels, " channels, ", h,
                  " x ", w);
  Tensor out = new_image(p.x.n, out_channels, h, w, x.scalar_type());
  if (out.numel() == 0) return out;
  p.out = image_of(op, "out", out);
  p.parallel =
      parallel_for_work(p.x.n * hidden * (p.x.h * p.x.w * p.x.c + h * w * (out_channels + kernel[0] * kernel[1])));
  p.workspace = workspace(inverted_residual_workspace(p));
  inverted_residual_cpu(p);
  return out;
}

STABLE_TORCH_LIBRARY_FRAGMENT(lightops, m) {
  m.def(
      "inverted_residual(Tensor x, Tensor ex, Tensor? ex_bias, int hidden, int ex_act, Tensor dw, Tensor? dw_bias, "
      "int[] kernel, int[] stride, int[] padding, int dw_act, Tensor pw, Tensor? pw_bias, int out_channels, bool "
      "residual) "
      "-> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) {
  m.impl("inverted_residual", TORCH_BOX(&Recordable<&inverted_residual>::call));
}

}  // namespace binding
}  // namespace lightops
