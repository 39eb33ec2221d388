#include "lightops/training/bn_act_conv2d.h"

#include "../../training/convolution.h"
#include "common.h"

namespace lightops {
namespace cuda_binding {
namespace {

using Bools = std::vector<bool>;

std::tuple<Tensor, Tensor, Tensor> bn_act_conv2d(Tensor x, OptionalTensor mean, OptionalTensor var,
                                                 OptionalTensor gamma, OptionalTensor beta, double eps, int64_t act,
                                                 Tensor weight, OptionalTensor bias, Ints stride, Ints padding,
                                                 Ints dilation, int64_t groups, bool pool, bool stats) {
  const Call call("bn_act_conv2d", x);
  BnActConv2dParams p;
  p.x = call.image("x", x);
  p.type = call.type;
  const auto g = binding::check_convolution(call.op, p.x, weight, stride, padding, dilation, groups, pool);
  const int64_t outputs = weight.size(0);
  p.norm = norm_of(call, p.x.c, mean, var, gamma, beta, eps, true);
  p.act = binding::act_of(call.op, "act", act);
  weight = torch::stable::contiguous(weight);
  p.weight = call.dense("weight", weight, {outputs, weight.size(1), weight.size(2), weight.size(3)});
  if (bias.has_value()) {
    bias = torch::stable::contiguous(*bias);
    p.bias = call.dense("bias", *bias, {outputs});
  }
  p.window = g.window;
  p.groups = groups;
  p.pool = pool;
  Tensor y = call.new_image(p.x.n, outputs, g.h, g.w);
  STD_TORCH_CHECK(!stats || y.numel() > 0, "lightops::", call.op, ": 'y' of shape ", binding::shape_of(y),
                  " has no statistics");
  Tensor mean_y = new_vector(call, stats ? outputs : 0), var_y = new_vector(call, stats ? outputs : 0);
  if (y.numel() == 0) return {y, mean_y, var_y};
  p.mean = data_or_null(mean_y);
  p.var = data_or_null(var_y);
  p.y = call.image("y", y);
  call.run(p, cuda::bn_act_conv2d_cuda_workspace, cuda::bn_act_conv2d_cuda);
  return {y, mean_y, var_y};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> bn_act_conv2d_backward(Tensor dy, Tensor x, OptionalTensor mean,
                                                                          OptionalTensor var, OptionalTensor gamma,
                                                                          OptionalTensor beta, double eps, int64_t act,
                                                                          Tensor weight, Ints stride, Ints padding,
                                                                          Ints dilation, int64_t groups, bool pool,
                                                                          bool batch, Bools needs) {
  const Call call("bn_act_conv2d_backward", x);
  BnActConv2dBackwardParams p;
  p.x = call.image("x", x);
  p.type = call.type;
  const auto g = binding::check_convolution(call.op, p.x, weight, stride, padding, dilation, groups, pool);
  const int64_t outputs = weight.size(0);
  p.dy = call.image("dy", dy, {p.x.n, outputs, g.h, g.w});
  p.norm = norm_of(call, p.x.c, mean, var, gamma, beta, eps, batch);
  p.act = binding::act_of(call.op, "act", act);
  weight = torch::stable::contiguous(weight);
  p.weight = call.dense("weight", weight, {outputs, weight.size(1), weight.size(2), weight.size(3)});
  p.window = g.window;
  p.groups = groups;
  p.pool = pool;
  STD_TORCH_CHECK(needs.size() == 4, "lightops::", call.op,
                  ": 'needs' must hold 4 flags: x, gamma and beta, weight, bias");
  const int64_t vectors = needs[1] && p.norm.mean ? p.x.c : 0;
  Tensor dx = needs[0] ? call.new_image(p.x.n, p.x.c, p.x.h, p.x.w) : call.new_tensor({0}, call.scalar());
  Tensor dgamma = new_vector(call, vectors), dbeta = new_vector(call, vectors);
  Tensor dweight = call.new_tensor(needs[2] ? sizes_of(weight) : Ints{0}, call.scalar());
  Tensor dbias = call.new_tensor({needs[3] ? outputs : 0}, call.scalar());
  if (dy.numel() == 0) {
    for (Tensor* t : {&dx, &dgamma, &dbeta, &dweight, &dbias}) torch::stable::zero_(*t);
    return {dx, dgamma, dbeta, dweight, dbias};
  }
  if (needs[0]) p.dx = call.image("dx", dx);
  p.dgamma = data_or_null(dgamma);
  p.dbeta = data_or_null(dbeta);
  p.dweight = data_or_null(dweight);
  p.dbias = data_or_null(dbias);
  call.run(p, cuda::bn_act_conv2d_backward_cuda_workspace, cuda::bn_act_conv2d_backward_cuda);
  return {dx, dgamma, dbeta, dweight, dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lightops, LIGHTOPS_CUDA_KEY, m) {
  m.impl("bn_act_conv2d", TORCH_BOX(&bn_act_conv2d));
  m.impl("bn_act_conv2d_backward", TORCH_BOX(&bn_act_conv2d_backward));
}

}  // namespace cuda_binding
}  // namespace lightops
