#include "common.h"

namespace lightops {
namespace cuda_binding {
namespace {

Tensor bn_act_max_pool2d(Tensor x, OptionalTensor mean, OptionalTensor var, OptionalTensor gamma, OptionalTensor beta,
                         double eps, int64_t act, Ints kernel, Ints stride, Ints padding, bool ceil_mode) {
  const Call call("bn_act_max_pool2d", x);
  BnActMaxPool2dParams p;
  p.x = call.image("x", x);
  p.type = call.type;
  p.norm = norm_of(call, p.x.c, mean, var, gamma, beta, eps, false);
  p.act = binding::act_of(call.op, "act", act);
  p.window = binding::window_of(call.op, kernel, stride, padding, {1, 1});
  const binding::PooledSize size = binding::check_pool(call.op, p.window, p.x, ceil_mode);
  Tensor out = call.new_image(p.x.n, p.x.c, size.h, size.w);
  if (out.numel() == 0) return out;
  p.out = call.image("out", out);
  call.run(p, cuda::bn_act_max_pool2d_cuda_workspace, cuda::bn_act_max_pool2d_cuda);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> bn_act_max_pool2d_backward(Tensor dy, Tensor x, OptionalTensor mean,
                                                              OptionalTensor var, OptionalTensor gamma,
                                                              OptionalTensor beta, double eps, int64_t act, Ints kernel,
                                                              Ints stride, Ints padding, bool ceil_mode, bool batch) {
  const Call call("bn_act_max_pool2d_backward", x);
  BnActMaxPool2dBackwardParams p;
  p.x = call.image("x", x);
  p.type = call.type;
  p.norm = norm_of(call, p.x.c, mean, var, gamma, beta, eps, batch);
  p.act = binding::act_of(call.op, "act", act);
  p.window = binding::window_of(call.op, kernel, stride, padding, {1, 1});
  const binding::PooledSize size = binding::check_pool(call.op, p.window, p.x, ceil_mode);
  p.dy = call.image("dy", dy, {p.x.n, p.x.c, size.h, size.w});
  return norm_gradients(call, p, cuda::bn_act_max_pool2d_backward_cuda_workspace,
                        cuda::bn_act_max_pool2d_backward_cuda);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lightops, LIGHTOPS_CUDA_KEY, m) {
  m.impl("bn_act_max_pool2d", TORCH_BOX(&bn_act_max_pool2d));
  m.impl("bn_act_max_pool2d_backward", TORCH_BOX(&bn_act_max_pool2d_backward));
}

}  // namespace cuda_binding
}  // namespace lightops
