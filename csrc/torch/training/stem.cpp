#include "lightops/training/stem.h"

#include <tuple>

#include "common.h"

namespace lightops {
namespace binding {
namespace {

struct Geometry {
  Window window, pool;
  int64_t h, w;  // of the convolution's map
};

Geometry check_stem(const char* op, const Nhwc& x, const Tensor& weight, const Ints& stride, const Ints& padding,
                    const Ints& pool_kernel, const Ints& pool_stride, const Ints& pool_padding) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.numel() > 0 && weight.size(1) == x.c, "lightops::", op,
                  ": 'weight' has shape ", shape_of(weight), "; want [O, ", x.c, ", kh, kw]");
  Geometry g;
  g.window = window_of(op, {weight.size(2), weight.size(3)}, stride, padding, {1, 1});
  check_fits(op, g.window, x);
  g.h = g.window.out(0, x.h);
  g.w = g.window.out(1, x.w);
  g.pool = window_of(op, pool_kernel, pool_stride, pool_padding, {1, 1});
  STD_TORCH_CHECK(g.pool.kernel[0] * g.pool.kernel[1] <= 256, "lightops::", op, ": 'pool_kernel' covers ",
                  g.pool.kernel[0] * g.pool.kernel[1], " pixels; want at most 256");
  return g;
}

DType exact_type_of(const char* op, const Tensor& x) {
  const DType type = dtype_of(op, "x", x);
  STD_TORCH_CHECK(type == DType::f32 || type == DType::f64, "lightops::", op, ": 'x' has scalar type ",
                  int(x.scalar_type()), "; want float32 or float64");
  return type;
}

Act stem_act(const char* op, int64_t code) {
  const Act act = act_of(op, "act", code);
  STD_TORCH_CHECK(act == Act::none || act == Act::relu, "lightops::", op, ": 'act' is ", code,
                  "; want 0 (none) or 1 (relu)");
  return act;
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
  const Geometry g = check_stem(op, p.x, weight, stride, padding, pool_kernel, pool_stride, pool_padding);
  p.act = stem_act(op, act);
  if (bias.has_value()) bias = torch::stable::contiguous(*bias);
  p.bias = data_of(op, "bias", bias, p.type, weight.size(0));
  p.window = g.window;
  p.pool = g.pool;
  Nhwc map = p.x;
  map.h = g.h;
  map.w = g.w;
  const PooledSize size = check_pool(op, p.pool, map, ceil_mode);
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
  const Geometry g = check_stem(op, p.x, weight, stride, padding, pool_kernel, pool_stride, pool_padding);
  p.act = stem_act(op, act);
  p.window = g.window;
  p.pool = g.pool;
  p.out = image_of(op, "out", out);
  check_size(op, "out", out, {p.x.n, weight.size(0), p.out.h, p.out.w});
  check_size(op, "dout", dout, {p.x.n, weight.size(0), p.out.h, p.out.w});
  check_size(op, "places", places, {p.x.n, weight.size(0), p.out.h, p.out.w});
  p.dout = image_of(op, "dout", dout);
  const Nhwc where = image_of(op, "places", places);
  STD_TORCH_CHECK(
      places.scalar_type() == ScalarType::Byte && where.pixel == where.c && where.image == where.h * where.row(),
      "lightops::", op, ": 'places' must be what the forward pass returned");
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

STABLE_TORCH_LIBRARY_FRAGMENT(lightops, m) {
  m.def(
      "stem_train(Tensor x, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, int act, int[2] pool_kernel, "
      "int[2] pool_stride, int[2] pool_padding, bool ceil_mode) -> (Tensor out, Tensor places)");
  m.def(
      "stem_train_backward(Tensor dout, Tensor x, Tensor out, Tensor places, Tensor weight, int[2] stride, "
      "int[2] padding, int act, int[2] pool_kernel, int[2] pool_stride, int[2] pool_padding, bool[] needs) -> "
      "(Tensor dx, Tensor dweight, Tensor dbias)");
}
STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) {
  m.impl("stem_train", TORCH_BOX(&stem_train));
  m.impl("stem_train_backward", TORCH_BOX(&stem_train_backward));
}

}  // namespace binding
}  // namespace lightops
