#include "lightops/fire.h"

#include "chain.h"

namespace lightops {
namespace binding {

Tensor fire(Tensor x, Tensor sq, OptionalTensor sq_bias, int64_t squeeze, Tensor e1, OptionalTensor e1_bias,
            int64_t expand1, Tensor e3, OptionalTensor e3_bias, int64_t expand3, int64_t algo, OptionalTensor bypass) {
  const char* op = "fire";
  FireParams p;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  Window three;
  three.kernel[0] = three.kernel[1] = 3;
  p.algo = algo_of(op, algo, three);
  p.squeeze_channels = squeeze;
  p.pairs = pairs_of(op, "sq", sq, p.type);
  p.squeeze = weight_of(op, "sq", sq, p.type, p.pairs, squeeze, p.x.c);
  p.squeeze_bias = data_of(op, "sq_bias", sq_bias, p.type, squeeze);
  p.expand1_channels = expand1;
  p.expand1 = weight_of(op, "e1", e1, p.type, p.pairs, expand1, squeeze);
  p.expand1_bias = data_of(op, "e1_bias", e1_bias, p.type, expand1);
  p.expand3_channels = expand3;
  p.expand3 = weight_of(op, "e3", e3, p.type, p.pairs, expand3, squeeze, 3, 3, p.algo);
  p.expand3_bias = data_of(op, "e3_bias", e3_bias, p.type, expand3);
  if (bypass.has_value()) {
    check_size(op, "bypass", *bypass, {p.x.n, expand1 + expand3, p.x.h, p.x.w});
    STD_TORCH_CHECK(bypass->scalar_type() == x.scalar_type(), "lightops::", op, ": 'bypass' and 'x' differ in type");
    p.bypass = image_of(op, "bypass", *bypass);
  }
  Tensor out = new_image(p.x.n, expand1 + expand3, p.x.h, p.x.w, x.scalar_type());
  if (out.numel() == 0) return out;
  p.out = image_of(op, "out", out);
  p.parallel = parallel_for_work(p.x.n * p.x.h * p.x.w * squeeze * (p.x.c + expand1 + 9 * expand3));
  p.workspace = workspace(fire_workspace(p));
  fire_cpu(p);
  return out;
}

STABLE_TORCH_LIBRARY_FRAGMENT(lightops, m) {
  m.def(
      "fire(Tensor x, Tensor sq, Tensor? sq_bias, int squeeze, Tensor e1, Tensor? e1_bias, int expand1, Tensor e3, "
      "Tensor? e3_bias, int expand3, int algo, Tensor? bypass) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) { m.impl("fire", TORCH_BOX(&Recordable<&fire>::call)); }

}  // namespace binding
}  // namespace lightops
