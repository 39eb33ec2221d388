#include "lightops/training/bn_act_mean.h"

#include "common.h"

namespace lightops {
namespace binding {

Tensor bn_act_mean(Tensor x, OptionalTensor mean, OptionalTensor var, OptionalTensor gamma, OptionalTensor beta,
                   double eps, int64_t act) {
  const char* op = "bn_act_mean";
  BnActMeanParams p;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  p.norm = norm_of(op, p.type, p.x.c, mean, var, gamma, beta, eps, false);
  p.act = act_of(op, "act", act);
  STD_TORCH_CHECK(p.x.h * p.x.w > 0, "lightops::", op, ": 'x' of shape ", shape_of(x), " has no pixels to average");
  const int64_t size[2] = {p.x.n, p.x.c};
  Tensor out = torch::stable::empty({size, 2}, x.scalar_type());
  if (out.numel() == 0) return out;
  p.out = out.data_ptr();
  p.parallel = parallel_for_work(x.numel() * kWorkPerElement);
  p.workspace = workspace(bn_act_mean_workspace(p));
  bn_act_mean_cpu(p);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> bn_act_mean_backward(Tensor dy, Tensor x, OptionalTensor mean, OptionalTensor var,
                                                        OptionalTensor gamma, OptionalTensor beta, double eps,
                                                        int64_t act, bool batch) {
  const char* op = "bn_act_mean_backward";
  BnActMeanBackwardParams p;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  check_type(op, "dy", dy, x);
  check_size(op, "dy", dy, {p.x.n, p.x.c});
  STD_TORCH_CHECK(dy.is_contiguous(), "lightops::", op, ": 'dy' must be contiguous");
  p.dy = dy.data_ptr();
  p.norm = norm_of(op, p.type, p.x.c, mean, var, gamma, beta, eps, batch);
  p.act = act_of(op, "act", act);
  return norm_gradients(op, x, 2, p, bn_act_mean_backward_workspace, bn_act_mean_backward_cpu);
}

STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) {
  m.impl("bn_act_mean", TORCH_BOX(&bn_act_mean));
  m.impl("bn_act_mean_backward", TORCH_BOX(&bn_act_mean_backward));
}

}  // namespace binding
}  // namespace lightops
