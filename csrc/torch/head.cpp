#include "lightops/head.h"

#include "chain.h"

namespace lightops {
namespace binding {

Tensor head(Tensor x, OptionalTensor scale, OptionalTensor shift, int64_t act, OptionalTensor fc,
            OptionalTensor fc_bias, int64_t out_features) {
  const char* op = "head";
  HeadParams p;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  STD_TORCH_CHECK(scale.has_value() == shift.has_value(), "lightops::", op,
                  ": give both 'scale' and 'shift' or neither");
  p.scale = data_of(op, "scale", scale, p.type, p.x.c);
  p.shift = data_of(op, "shift", shift, p.type, p.x.c);
  p.act = act_of(op, "act", act);
  p.out_features = fc.has_value() ? out_features : p.x.c;
  p.pairs = pairs_of(op, "fc", fc, p.type);
  if (fc.has_value()) p.weight = weight_of(op, "fc", *fc, p.type, p.pairs, p.out_features, p.x.c);
  p.bias = data_of(op, "fc_bias", fc_bias, p.type, p.out_features);
  const int64_t size[2] = {p.x.n, p.out_features};
  Tensor out = torch::stable::empty({size, 2}, x.scalar_type());
  if (out.numel() == 0) return out;
  p.out = out.data_ptr();
  p.parallel = parallel_for_work(x.numel() * 4 + (fc.has_value() ? p.x.n * p.x.c * p.out_features : 0));
  p.workspace = workspace(head_workspace(p));
  head_cpu(p);
  return out;
}

STABLE_TORCH_LIBRARY_FRAGMENT(lightops, m) {
  m.def(
      "head(Tensor x, Tensor? scale, Tensor? shift, int act, Tensor? fc, Tensor? fc_bias, int out_features) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) { m.impl("head", TORCH_BOX(&Recordable<&head>::call)); }

}  // namespace binding
}  // namespace lightops
