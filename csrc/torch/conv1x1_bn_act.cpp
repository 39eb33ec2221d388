#include "lightops/conv1x1_bn_act.h"

#include "chain.h"

namespace lightops {
namespace binding {

Tensor conv1x1_bn_act(Tensor x, Tensor w, OptionalTensor bias, int64_t out_channels, int64_t act,
                      OptionalTensor residual) {
  const char* op = "conv1x1_bn_act";
  Conv1x1BnActParams p;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  p.pairs = pairs_of(op, "w", w, p.type);
  p.weight = weight_of(op, "w", w, p.type, p.pairs, out_channels, p.x.c);
  p.bias = data_of(op, "bias", bias, p.type, out_channels);
  p.act = act_of(op, "act", act);
  if (residual.has_value()) {
    check_size(op, "residual", *residual, {p.x.n, out_channels, p.x.h, p.x.w});
    STD_TORCH_CHECK(residual->scalar_type() == x.scalar_type(), "lightops::", op,
                    ": 'residual' and 'x' differ in type");
    p.residual = image_of(op, "residual", *residual);
  }
  Tensor out = new_image(p.x.n, out_channels, p.x.h, p.x.w, x.scalar_type());
  if (out.numel() == 0) return out;
  p.out = image_of(op, "out", out);
  p.parallel = parallel_for_work(out.numel() * p.x.c);
  p.workspace = workspace(conv1x1_bn_act_workspace(p));
  conv1x1_bn_act_cpu(p);
  return out;
}

STABLE_TORCH_LIBRARY_FRAGMENT(lightops, m) {
  m.def("conv1x1_bn_act(Tensor x, Tensor w, Tensor? bias, int out_channels, int act, Tensor? residual) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) { m.impl("conv1x1_bn_act", TORCH_BOX(&Recordable<&conv1x1_bn_act>::call)); }

}  // namespace binding
}  // namespace lightops
