#include "common.h"

namespace lightops {
namespace cuda_binding {
namespace {

Tensor max_pool2d(Tensor x, Ints kernel, Ints stride, Ints padding, bool ceil_mode) {
  const Call call("max_pool2d", x);
  MaxPool2dParams p;
  p.x = call.image("x", x);
  p.type = call.type;
  p.window = binding::window_of(call.op, kernel, stride, padding, {1, 1});
  const binding::PooledSize size = binding::check_pool(call.op, p.window, p.x, ceil_mode);
  Tensor out = call.new_image(p.x.n, p.x.c, size.h, size.w);
  if (out.numel() == 0) return out;
  p.out = call.image("out", out);
  call.run(p, cuda::max_pool2d_cuda_workspace, cuda::max_pool2d_cuda);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lightops, LIGHTOPS_CUDA_KEY, m) { m.impl("max_pool2d", TORCH_BOX(&max_pool2d)); }

}  // namespace cuda_binding
}  // namespace lightops
