#include "../../training/stem.h"

#include <tuple>

#include "common.h"

namespace lightops {
namespace cuda_binding {
namespace {

// What both passes are told: x, the weight, which is made dense, the windows and the activation.
template <class Params>
auto describe(const Call& call, Params& p, const Tensor& x, Tensor& weight, Ints stride, Ints padding, int64_t act,
              Ints pool_kernel, Ints pool_stride, Ints pool_padding) {
  p.x = call.image("x", x);
  p.type = call.type;
  const auto g = binding::check_stem(call.op, p.x, weight, stride, padding, pool_kernel, pool_stride, pool_padding);
  p.act = binding::stem_act(call.op, act);
  weight = torch::stable::contiguous(weight);
  p.weight = call.dense("weight", weight, {weight.size(0), p.x.c, weight.size(2), weight.size(3)});
  p.window = g.window;
  p.pool = g.pool;
  return g;
}

std::tuple<Tensor, Tensor> stem_train(Tensor x, Tensor weight, OptionalTensor bias, Ints stride, Ints padding,
                                      int64_t act, Ints pool_kernel, Ints pool_stride, Ints pool_padding,
                                      bool ceil_mode) {
  const Call call("stem_train", x);
  StemTrainParams p;
  const auto g = describe(call, p, x, weight, stride, padding, act, pool_kernel, pool_stride, pool_padding);
  const int64_t outputs = weight.size(0);
  if (bias.has_value()) {
    bias = torch::stable::contiguous(*bias);
    p.bias = call.dense("bias", *bias, {outputs});
  }
  const binding::PooledSize size = binding::check_stem_pool(call.op, p.x, g, ceil_mode);
  Tensor out = call.new_image(p.x.n, outputs, size.h, size.w);
  Tensor places = call.new_image(p.x.n, outputs, size.h, size.w, ScalarType::Byte);
  if (out.numel() == 0) return {out, places};
  p.out = call.image("out", out);
  p.places = static_cast<uint8_t*>(places.data_ptr());
  call.run(p, cuda::stem_train_cuda_workspace, cuda::stem_train_cuda);
  return {out, places};
}

std::tuple<Tensor, Tensor, Tensor> stem_train_backward(Tensor dout, Tensor x, Tensor out, Tensor places, Tensor weight,
                                                       Ints stride, Ints padding, int64_t act, Ints pool_kernel,
                                                       Ints pool_stride, Ints pool_padding, std::vector<bool> needs) {
  const Call call("stem_train_backward", x);
  StemTrainBackwardParams p;
  const auto g = describe(call, p, x, weight, stride, padding, act, pool_kernel, pool_stride, pool_padding);
  const int64_t outputs = weight.size(0);
  p.out = call.image("out", out);
  call.check_like_x("out", out, {p.x.n, outputs, p.out.h, p.out.w});
  p.dout = call.image("dout", dout, {p.x.n, outputs, p.out.h, p.out.w});
  call.check_device("places", places);
  binding::check_places(call.op, places, p.out);
  p.places = static_cast<const uint8_t*>(places.data_ptr());
  STD_TORCH_CHECK(needs.size() == 3, "lightops::", call.op, ": 'needs' must hold 3 flags: x, weight, bias");
  Tensor dx = needs[0] ? call.new_image(p.x.n, p.x.c, p.x.h, p.x.w) : call.new_tensor({0}, call.scalar());
  Tensor dweight = call.new_tensor(needs[1] ? sizes_of(weight) : Ints{0}, call.scalar());
  Tensor dbias = call.new_tensor({needs[2] ? outputs : 0}, call.scalar());
  if (dout.numel() == 0) {
    for (Tensor* t : {&dx, &dweight, &dbias}) torch::stable::zero_(*t);
    return {dx, dweight, dbias};
  }
  if (needs[0]) p.dx = call.image("dx", dx);
  p.dweight = data_or_null(dweight);
  p.dbias = data_or_null(dbias);
  call.run(p, cuda::stem_train_backward_cuda_workspace, cuda::stem_train_backward_cuda);
  return {dx, dweight, dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lightops, LIGHTOPS_CUDA_KEY, m) {
  m.impl("stem_train", TORCH_BOX(&stem_train));
  m.impl("stem_train_backward", TORCH_BOX(&stem_train_backward));
}

}  // namespace cuda_binding
}  // namespace lightops
