#include "lightops/training/bn_act_max_pool2d.h"

#include "common.h"

namespace lightops {
namespace binding {

Tensor bn_act_max_pool2d(Tensor x, OptionalTensor mean, OptionalTensor var, OptionalTensor gamma, OptionalTensor beta,
                         double eps, int64_t act, Ints kernel, Ints stride, Ints padding, bool ceil_mode) {
  const char* op = "bn_act_max_pool2d";
  BnActMaxPool2dParams p;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  p.norm = norm_of(op, p.type, p.x.c, mean, var, gamma, beta, eps, false);
  p.act = act_of(op, "act", act);
  p.window = window_of(op, kernel, stride, padding, {1, 1});
  const PooledSize size = check_pool(op, p.window, p.x, ceil_mode);
  Tensor out = new_image(p.x.n, p.x.c, size.h, size.w, x.scalar_type());
  if (out.numel() == 0) return out;
  p.out = image_of(op, "out", out);
  p.parallel = parallel_for_work(x.numel() * kWorkPerElement);
  p.workspace = workspace(bn_act_max_pool2d_workspace(p));
  bn_act_max_pool2d_cpu(p);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> bn_act_max_pool2d_backward(Tensor dy, Tensor x, OptionalTensor mean,
                                                              OptionalTensor var, OptionalTensor gamma,
                                                              OptionalTensor beta, double eps, int64_t act, Ints kernel,
                                                              Ints stride, Ints padding, bool ceil_mode, bool batch) {
  const char* op = "bn_act_max_pool2d_backward";
  BnActMaxPool2dBackwardParams p;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  check_type(op, "dy", dy, x);
  p.norm = norm_of(op, p.type, p.x.c, mean, var, gamma, beta, eps, batch);
  p.act = act_of(op, "act", act);
  p.window = window_of(op, kernel, stride, padding, {1, 1});
  const PooledSize size = check_pool(op, p.window, p.x, ceil_mode);
  check_size(op, "dy", dy, {p.x.n, p.x.c, size.h, size.w});
  p.dy = image_of(op, "dy", dy);
  return norm_gradients(op, x, 3, p, bn_act_max_pool2d_backward_workspace, bn_act_max_pool2d_backward_cpu);
}

STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) {
  m.impl("bn_act_max_pool2d", TORCH_BOX(&bn_act_max_pool2d));
  m.impl("bn_act_max_pool2d_backward", TORCH_BOX(&bn_act_max_pool2d_backward));
}

}  // namespace binding
}  // namespace lightops
