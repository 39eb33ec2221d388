#include "lightops/training/bn_act_conv2d.h"

#include "common.h"
#include "convolution.h"

namespace lightops {
namespace binding {
namespace {

using Bools = std::vector<bool>;

std::tuple<Tensor, Tensor, Tensor> bn_act_conv2d(Tensor x, OptionalTensor mean, OptionalTensor var,
                                                 OptionalTensor gamma, OptionalTensor beta, double eps, int64_t act,
                                                 Tensor weight, OptionalTensor bias, Ints stride, Ints padding,
                                                 Ints dilation, int64_t groups, bool pool, bool stats) {
  const char* op = "bn_act_conv2d";
  BnActConv2dParams p;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  check_type(op, "weight", weight, x);
  const ConvolutionSize g = check_convolution(op, p.x, weight, stride, padding, dilation, groups, pool);
  const int64_t outputs = weight.size(0);
  p.norm = norm_of(op, p.type, p.x.c, mean, var, gamma, beta, eps, true);
  p.act = act_of(op, "act", act);
  weight = torch::stable::contiguous(weight);
  p.weight = weight.data_ptr();
  if (bias.has_value()) {
    check_type(op, "bias", *bias, x);
    check_size(op, "bias", *bias, {outputs});
    bias = torch::stable::contiguous(*bias);
    p.bias = bias->data_ptr();
  }
  p.window = g.window;
  p.groups = groups;
  p.pool = pool;
  Tensor y = new_image(p.x.n, outputs, g.h, g.w, x.scalar_type());
  STD_TORCH_CHECK(!stats || y.numel() > 0, "lightops::", op, ": 'y' of shape ", shape_of(y), " has no statistics");
  Tensor mean_y = new_vector(stats ? outputs : 0, compute_type(p.type));
  Tensor var_y = new_vector(stats ? outputs : 0, compute_type(p.type));
  if (y.numel() == 0) return {y, mean_y, var_y};
  p.mean = data_or_null(mean_y);
  p.var = data_or_null(var_y);
  p.y = image_of(op, "y", y);
  p.parallel = parallel_for_work(g.work);
  p.workspace = workspace(bn_act_conv2d_workspace(p));
  const Status status = bn_act_conv2d_cpu(p);
  STD_TORCH_CHECK(status == Status::ok, "lightops::", op, ": no kernel for groups = ", groups);
  return {y, mean_y, var_y};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> bn_act_conv2d_backward(Tensor dy, Tensor x, OptionalTensor mean,
                                                                          OptionalTensor var, OptionalTensor gamma,
                                                                          OptionalTensor beta, double eps, int64_t act,
                                                                          Tensor weight, Ints stride, Ints padding,
                                                                          Ints dilation, int64_t groups, bool pool,
                                                                          bool batch, Bools needs) {
  const char* op = "bn_act_conv2d_backward";
  BnActConv2dBackwardParams p;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  check_type(op, "dy", dy, x);
  check_type(op, "weight", weight, x);
  const ConvolutionSize g = check_convolution(op, p.x, weight, stride, padding, dilation, groups, pool);
  const int64_t outputs = weight.size(0);
  check_size(op, "dy", dy, {p.x.n, outputs, g.h, g.w});
  p.dy = image_of(op, "dy", dy);
  p.norm = norm_of(op, p.type, p.x.c, mean, var, gamma, beta, eps, batch);
  p.act = act_of(op, "act", act);
  weight = torch::stable::contiguous(weight);
  p.weight = weight.data_ptr();
  p.window = g.window;
  p.groups = groups;
  p.pool = pool;
  STD_TORCH_CHECK(needs.size() == 4, "lightops::", op, ": 'needs' must hold 4 flags: x, gamma and beta, weight, bias");
  const int64_t vectors = needs[1] && p.norm.mean ? p.x.c : 0;
  Tensor dx = needs[0] ? new_image(p.x.n, p.x.c, p.x.h, p.x.w, x.scalar_type()) : new_vector(0, x.scalar_type());
  Tensor dgamma = new_vector(vectors, compute_type(p.type)), dbeta = new_vector(vectors, compute_type(p.type));
  Tensor dweight = new_tensor(needs[2] ? sizes_of(weight) : Ints{0}, x.scalar_type());
  Tensor dbias = new_vector(needs[3] ? outputs : 0, x.scalar_type());
  if (dy.numel() == 0) {
    for (Tensor* t : {&dx, &dgamma, &dbeta, &dweight, &dbias}) torch::stable::zero_(*t);
    return {dx, dgamma, dbeta, dweight, dbias};
  }
  if (needs[0]) p.dx = image_of(op, "dx", dx);
  p.dgamma = data_or_null(dgamma);
  p.dbeta = data_or_null(dbeta);
  p.dweight = data_or_null(dweight);
  p.dbias = data_or_null(dbias);
  p.parallel = parallel_for_work(2 * g.work);
  p.workspace = workspace(bn_act_conv2d_backward_workspace(p));
  const Status status = bn_act_conv2d_backward_cpu(p);
  STD_TORCH_CHECK(status == Status::ok, "lightops::", op, ": no kernel for groups = ", groups);
  return {dx, dgamma, dbeta, dweight, dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) {
  m.impl("bn_act_conv2d", TORCH_BOX(&bn_act_conv2d));
  m.impl("bn_act_conv2d_backward", TORCH_BOX(&bn_act_conv2d_backward));
}

}  // namespace binding
}  // namespace lightops
