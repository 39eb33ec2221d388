#include "lightops/training/bn_act.h"

#include "common.h"

namespace lightops {
namespace binding {

Tensor bn_act(Tensor x, OptionalTensor mean, OptionalTensor var, OptionalTensor gamma, OptionalTensor beta, double eps,
              int64_t act, OptionalTensor residual) {
  const char* op = "bn_act";
  BnActParams p;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  p.norm = norm_of(op, p.type, p.x.c, mean, var, gamma, beta, eps, false);
  p.act = act_of(op, "act", act);
  if (residual.has_value()) {
    check_type(op, "residual", *residual, x);
    check_size(op, "residual", *residual, {p.x.n, p.x.c, p.x.h, p.x.w});
    p.residual = image_of(op, "residual", *residual);
  }
  Tensor out = new_image(p.x.n, p.x.c, p.x.h, p.x.w, x.scalar_type());
  if (out.numel() == 0) return out;
  p.out = image_of(op, "out", out);
  p.parallel = parallel_for_work(x.numel() * kWorkPerElement);
  p.workspace = workspace(bn_act_workspace(p));
  bn_act_cpu(p);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> bn_act_backward(Tensor dy, Tensor x, OptionalTensor mean, OptionalTensor var,
                                                   OptionalTensor gamma, OptionalTensor beta, double eps, int64_t act,
                                                   bool batch) {
  const char* op = "bn_act_backward";
  BnActBackwardParams p;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  check_type(op, "dy", dy, x);
  check_size(op, "dy", dy, {p.x.n, p.x.c, p.x.h, p.x.w});
  p.dy = image_of(op, "dy", dy);
  p.norm = norm_of(op, p.type, p.x.c, mean, var, gamma, beta, eps, batch);
  p.act = act_of(op, "act", act);
  return norm_gradients(op, x, 2, p, bn_act_backward_workspace, bn_act_backward_cpu);
}

STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) {
  m.impl("bn_act", TORCH_BOX(&bn_act));
  m.impl("bn_act_backward", TORCH_BOX(&bn_act_backward));
}

}  // namespace binding
}  // namespace lightops
