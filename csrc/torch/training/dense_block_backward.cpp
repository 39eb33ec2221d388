#include <tuple>

#include "dense_block.h"

namespace lightops {
namespace binding {
namespace {

void* take(const char* op, const char* name, const Tensor& t, DType type, int64_t elements) {
  return const_cast<void*>(data_of(op, name, t, type, elements));
}

}  // namespace

std::tuple<Tensor, std::vector<Tensor>> dense_block_train_backward(
    Tensor dbuffer, Tensor buffer, Tensor middle, Tensor mean, Tensor var, Tensor middle_mean, Tensor middle_var,
    OptionalTensors params, std::vector<double> eps, OptionalTensors frozen, OptionalTensors masks, int64_t growth,
    int64_t bottleneck, int64_t algo, std::vector<bool> needs) {
  const char* op = "dense_block_train_backward";
  DenseBlockTrainBackwardParams p;
  DenseBlockTrainParams& f = p.block;
  p.type = f.type = dtype_of(op, "buffer", buffer);
  const ScalarType compute = compute_type(p.type), scalar = buffer.scalar_type();
  f.buffer = image_of(op, "buffer", buffer);
  const Nhwc& b = f.buffer;
  f.algo = train_algo(op, algo);
  STD_TORCH_CHECK(b.pixel == b.c && b.image == b.h * b.w * b.c, "lightops::", op, ": 'buffer' must be dense");
  const DenseLists lists{params, eps, frozen, masks};
  const size_t each = lists.each(bottleneck);
  const int64_t layers = int64_t(params.size() / each);
  STD_TORCH_CHECK(growth > 0 && b.c > layers * growth, "lightops::", op, ": 'buffer' has ", b.c,
                  " channels; want more than ", layers, " x ", growth);
  STD_TORCH_CHECK(needs.size() == params.size() + 1, "lightops::", op, ": 'needs' has ", needs.size(),
                  " entries; want ", params.size() + 1);
  f.in_channels = b.c - layers * growth;
  f.growth = growth;
  f.bottleneck = bottleneck;
  f.mean = take(op, "mean", mean, p.type, b.c);
  f.variance = take(op, "var", var, p.type, b.c);
  f.middle_mean = take(op, "middle_mean", middle_mean, p.type, layers * bottleneck);
  f.middle_variance = take(op, "middle_var", middle_var, p.type, layers * bottleneck);
  if (bottleneck > 0) {
    check_size(op, "middle", middle, {layers * b.n, bottleneck, b.h, b.w});
    const Nhwc m = image_of(op, "middle", middle);
    STD_TORCH_CHECK(middle.scalar_type() == scalar && m.pixel == m.c && m.image == m.h * m.w * m.c, "lightops::", op,
                    ": 'middle' must be dense and of the type of 'buffer'");
    f.middle = m.data;
  }
  std::vector<DenseTrainLayer> steps;
  std::vector<Tensor> keep;
  dense_layers(DenseCheck{op, p.type, scalar, &keep}, lists, &f, &steps);
  check_type(op, "dbuffer", dbuffer, buffer);
  check_size(op, "dbuffer", dbuffer, {b.n, b.c, b.h, b.w});
  p.dbuffer = image_of(op, "dbuffer", dbuffer);
  if (b.n > 1 && p.dbuffer.image != b.h * b.w * p.dbuffer.pixel) {
    Tensor dense = new_image(b.n, b.c, b.h, b.w, scalar);
    torch::stable::copy_(dense, dbuffer);
    dbuffer = dense;
    p.dbuffer = image_of(op, "dbuffer", dbuffer);
  }

  Tensor dx = needs[0] ? new_image(b.n, f.in_channels, b.h, b.w, scalar) : new_vector(0, scalar);
  std::vector<Tensor> grads = dense_gradients(
      params, needs, [&](const Tensor* param) { return new_tensor(param ? sizes_of(*param) : Ints{0}, compute); });
  if (buffer.numel() == 0) {
    for (Tensor& g : grads) torch::stable::zero_(g);
  } else {
    const std::vector<DenseTrainGradient> places = dense_places(grads, each);
    p.gradients = places.data();
    Tensor gradient = on_huge_pages(new_vector(b.n * b.h * b.w * b.c, compute));
    Tensor dmiddle = on_huge_pages(new_vector(b.n * b.h * b.w * bottleneck, compute));
    p.gradient = gradient.data_ptr();
    p.dmiddle = dmiddle.data_ptr();
    if (needs[0]) p.dx = image_of(op, "dx", dx);
    p.parallel = parallel_for_work(2 * dense_work(f));
    p.workspace = workspace(dense_block_train_backward_workspace(p));
    dense_block_train_backward_cpu(p);
  }
  if (scalar != compute)
    for (size_t l = 0; l < size_t(layers); ++l)
      for (size_t i = 2; i < each; i += 3) {
        Tensor& g = grads[each * l + i];
        g = torch::stable::to(g, scalar);
      }
  return {dx, grads};
}

STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) {
  m.impl("dense_block_train_backward", TORCH_BOX(&dense_block_train_backward));
}

}  // namespace binding
}  // namespace lightops
