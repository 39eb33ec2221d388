#include "stem.h"

#include <tuple>

namespace lightops {
namespace binding {
namespace {

DType exact_type_of(const char* op, const Tensor& x) {
  const DType type = dtype_of(op, "x", x);
  STD_TORCH_CHECK(type == DType::f32 || type == DType::f64, "lightops::", op, ": 'x' has scalar type ",
                  int(x.scalar_type()), "; want float32 or float64");
  return type;
}

}  // namespace

std::tuple<Tensor, Tensor> stem_train(Tensor x, Tensor weight, OptionalTensor bias, Ints stride, Ints padding,
                                      int64_t act, Ints pool_kernel, Ints pool_stride, Ints pool_padding,
                                      bool ceil_mode) {
  const char* op = "stem_train";
  StemTrainParams p;
  p.x = image_of(op, "x", x);
  p.type = exact_type_of(op, x);
  check_type(op, "weight", weight, x);
  const StemGeometry g = check_stem(op, p.x, weight, stride, padding, pool_kernel, pool_stride, pool_padding);
  p.act = stem_act(op, act);
  if (bias.has_value()) bias = torch::stable::contiguous(*bias);
  p.bias = data_of(op, "bias", bias, p.type, weight.size(0));
  p.window = g.window;
  p.pool = g.pool;
  const PooledSize size = check_stem_pool(op, p.x, g, ceil_mode);
  weight = torch::stable::contiguous(weight);
  p.weight = weight.data_ptr();
  Tensor out = new_image(p.x.n, weight.size(0), size.h, size.w, x.scalar_type());
  Tensor places = new_image(p.x.n, weight.size(0), size.h, size.w, ScalarType::Byte);
  if (out.numel() == 0) return {out, places};
  p.out = image_of(op, "out", out);
  p.places = static_cast<uint8_t*>(places.data_ptr());
  p.parallel = parallel_for_work(p.x.n * g.h * g.w * weight.numel());
  p.workspace = workspace(stem_train_workspace(p));
  stem_train_cpu(p);
  return {out, places};
}

std::tuple<Tensor, Tensor, Tensor> stem_train_backward(Tensor dout, Tensor x, Tensor out, Tensor places, Tensor weight,
                                                       Ints stride, Ints padding, int64_t act, Ints pool_kernel,
                                                       Ints pool_stride, Ints pool_padding, std::vector<bool> needs) {
  const char* op = "stem_train_backward";
  StemTrainBackwardParams p;
  p.x = image_of(op, "x", x);
  p.type = exact_type_of(op, x);
  check_type(op, "dout", dout, x);
  check_type(op, "out", out, x);
  const StemGeometry g = check_stem(op, p.x, weight, stride, padding, pool_kernel, pool_stride, pool_padding);
  p.act = stem_act(op, act);
  p.window = g.window;
  p.pool = g.pool;
  p.out = image_of(op, "out", out);
  check_size(op, "out", out, {p.x.n, weight.size(0), p.out.h, p.out.w});
  check_size(op, "dout", dout, {p.x.n, weight.size(0), p.out.h, p.out.w});
  p.dout = image_of(op, "dout", dout);
  STD_TORCH_CHECK(places.is_cpu(), "lightops::", op, ": 'places' is not on the CPU");
  check_places(op, places, p.out);
  STD_TORCH_CHECK(needs.size() == 3 && !needs[0], "lightops::", op,
                  ": 'needs' must hold 3 flags: x (which has no kernel), weight, bias");
  p.places = static_cast<const uint8_t*>(places.data_ptr());
  Tensor dx = new_vector(0, x.scalar_type());
  Tensor dweight = new_tensor(needs[1] ? sizes_of(weight) : Ints{0}, x.scalar_type());
  Tensor dbias = new_vector(needs[2] ? weight.size(0) : 0, x.scalar_type());
  if (dout.numel() == 0) return {dx, torch::stable::zero_(dweight), torch::stable::zero_(dbias)};
  p.dweight = data_or_null(dweight);
  p.dbias = data_or_null(dbias);
  p.parallel = parallel_for_work(p.x.n * g.h * g.w * weight.numel());
  p.workspace = workspace(stem_train_backward_workspace(p));
  stem_train_backward_cpu(p);
  return {dx, dweight, dbias};
}

STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) {
  m.impl("stem_train", TORCH_BOX(&stem_train));
  m.impl("stem_train_backward", TORCH_BOX(&stem_train_backward));
}

}  // namespace binding
}  // namespace lightops
