#include "common.h"

namespace lightops {
namespace cuda_binding {
namespace {

Tensor head(Tensor x, OptionalTensor scale, OptionalTensor shift, int64_t act, OptionalTensor fc,
            OptionalTensor fc_bias, int64_t out_features) {
  const Call call("head", x);
  HeadParams p;
  p.x = call.image("x", x);
  p.type = call.type;
  STD_TORCH_CHECK(scale.has_value() == shift.has_value(), "lightops::", call.op,
                  ": give both 'scale' and 'shift' or neither");
  p.scale = call.vector("scale", scale, p.x.c);
  p.shift = call.vector("shift", shift, p.x.c);
  p.act = binding::act_of(call.op, "act", act);
  p.out_features = fc.has_value() ? out_features : p.x.c;
  p.weight = call.weight("fc", fc, 1, p.out_features, p.x.c);
  p.bias = call.vector("fc_bias", fc_bias, p.out_features);
  const int64_t size[2] = {p.x.n, p.out_features};
  Tensor out = torch::stable::empty({size, 2}, x.scalar_type(), std::nullopt, x.device());
  if (out.numel() == 0) return out;
  p.out = out.data_ptr();
  call.run(p, cuda::head_cuda_workspace, cuda::head_cuda);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lightops, LIGHTOPS_CUDA_KEY, m) { m.impl("head", TORCH_BOX(&head)); }

}  // namespace cuda_binding
}  // namespace lightops
