#include "common.h"

namespace lightops {
namespace cuda_binding {
namespace {

Tensor bn_act_mean(Tensor x, OptionalTensor mean, OptionalTensor var, OptionalTensor gamma, OptionalTensor beta,
                   double eps, int64_t act) {
  const Call call("bn_act_mean", x);
  BnActMeanParams p;
  p.x = call.image("x", x);
  p.type = call.type;
  p.norm = norm_of(call, p.x.c, mean, var, gamma, beta, eps, false);
  p.act = binding::act_of(call.op, "act", act);
  STD_TORCH_CHECK(p.x.h * p.x.w > 0, "lightops::", call.op, ": 'x' of shape ", binding::shape_of(x),
                  " has no pixels to average");
  Tensor out = call.new_tensor({p.x.n, p.x.c}, x.scalar_type());
  if (out.numel() == 0) return out;
  p.out = out.data_ptr();
  call.run(p, cuda::bn_act_mean_cuda_workspace, cuda::bn_act_mean_cuda);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> bn_act_mean_backward(Tensor dy, Tensor x, OptionalTensor mean, OptionalTensor var,
                                                        OptionalTensor gamma, OptionalTensor beta, double eps,
                                                        int64_t act, bool batch) {
  const Call call("bn_act_mean_backward", x);
  BnActMeanBackwardParams p;
  p.x = call.image("x", x);
  p.type = call.type;
  p.dy = call.dense("dy", dy, {p.x.n, p.x.c});
  p.norm = norm_of(call, p.x.c, mean, var, gamma, beta, eps, batch);
  p.act = binding::act_of(call.op, "act", act);
  return norm_gradients(call, p, cuda::bn_act_mean_backward_cuda_workspace, cuda::bn_act_mean_backward_cuda);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lightops, LIGHTOPS_CUDA_KEY, m) {
  m.impl("bn_act_mean", TORCH_BOX(&bn_act_mean));
  m.impl("bn_act_mean_backward", TORCH_BOX(&bn_act_mean_backward));
}

}  // namespace cuda_binding
}  // namespace lightops
