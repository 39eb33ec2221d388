#include "common.h"

namespace lightops {
namespace cuda_binding {
namespace {

Tensor bn_act(Tensor x, OptionalTensor mean, OptionalTensor var, OptionalTensor gamma, OptionalTensor beta, double eps,
              int64_t act, OptionalTensor residual) {
  const Call call("bn_act", x);
  BnActParams p;
  p.x = call.image("x", x);
  p.type = call.type;
  p.norm = norm_of(call, p.x.c, mean, var, gamma, beta, eps, false);
  p.act = binding::act_of(call.op, "act", act);
  if (residual.has_value()) p.residual = call.image("residual", *residual, {p.x.n, p.x.c, p.x.h, p.x.w});
  Tensor out = call.new_image(p.x.n, p.x.c, p.x.h, p.x.w);
  if (out.numel() == 0) return out;
  p.out = call.image("out", out);
  call.run(p, cuda::bn_act_cuda_workspace, cuda::bn_act_cuda);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> bn_act_backward(Tensor dy, Tensor x, OptionalTensor mean, OptionalTensor var,
                                                   OptionalTensor gamma, OptionalTensor beta, double eps, int64_t act,
                                                   bool batch) {
  const Call call("bn_act_backward", x);
  BnActBackwardParams p;
  p.x = call.image("x", x);
  p.type = call.type;
  p.dy = call.image("dy", dy, {p.x.n, p.x.c, p.x.h, p.x.w});
  p.norm = norm_of(call, p.x.c, mean, var, gamma, beta, eps, batch);
  p.act = binding::act_of(call.op, "act", act);
  return norm_gradients(call, p, cuda::bn_act_backward_cuda_workspace, cuda::bn_act_backward_cuda);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lightops, LIGHTOPS_CUDA_KEY, m) {
  m.impl("bn_act", TORCH_BOX(&bn_act));
  m.impl("bn_act_backward", TORCH_BOX(&bn_act_backward));
}

}  // namespace cuda_binding
}  // namespace lightops
