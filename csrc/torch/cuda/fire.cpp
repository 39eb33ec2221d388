#include "common.h"

namespace lightops {
namespace cuda_binding {
namespace {

// `algo` chooses between the CPU's sums; the tensor cores have one.
Tensor fire(Tensor x, Tensor sq, OptionalTensor sq_bias, int64_t squeeze, Tensor e1, OptionalTensor e1_bias,
            int64_t expand1, Tensor e3, OptionalTensor e3_bias, int64_t expand3, int64_t, OptionalTensor bypass) {
  const Call call("fire", x);
  FireParams p;
  p.x = call.image("x", x);
  p.type = call.type;
  p.squeeze_channels = squeeze;
  p.squeeze = call.weight("sq", sq, 1, squeeze, p.x.c);
  p.squeeze_bias = call.vector("sq_bias", sq_bias, squeeze);
  p.expand1_channels = expand1;
  p.expand1 = call.weight("e1", e1, 1, expand1, squeeze);
  p.expand1_bias = call.vector("e1_bias", e1_bias, expand1);
  p.expand3_channels = expand3;
  p.expand3 = call.weight("e3", e3, 9, expand3, squeeze);
  p.expand3_bias = call.vector("e3_bias", e3_bias, expand3);
  if (bypass.has_value()) p.bypass = call.image("bypass", *bypass, {p.x.n, expand1 + expand3, p.x.h, p.x.w});
  Tensor out = call.new_image(p.x.n, expand1 + expand3, p.x.h, p.x.w);
  if (out.numel() == 0) return out;
  p.out = call.image("out", out);
  call.run(p, cuda::fire_cuda_workspace, cuda::fire_cuda);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lightops, LIGHTOPS_CUDA_KEY, m) { m.impl("fire", TORCH_BOX(&fire)); }

}  // namespace cuda_binding
}  // namespace lightops
