#include "dense_block.h"

namespace lightops {
namespace cuda_binding {
namespace {

bool dense(const Nhwc& t) { return t.pixel == t.c && (t.n <= 1 || t.image == t.h * t.w * t.c); }

std::tuple<Tensor, std::vector<Tensor>> dense_block_train_backward(
    Tensor dbuffer, Tensor buffer, Tensor middle, Tensor mean, Tensor var, Tensor middle_mean, Tensor middle_var,
    OptionalTensors params, std::vector<double> eps, OptionalTensors frozen, OptionalTensors masks, int64_t growth,
    int64_t bottleneck, int64_t algo, std::vector<bool> needs) {
  const Call call("dense_block_train_backward", buffer);
  DenseBlockTrainBackwardParams p;
  DenseBlockTrainParams& f = p.block;
  p.type = f.type = call.type;
  f.buffer = call.image("buffer", buffer);
  const Nhwc b = f.buffer;
  f.algo = binding::train_algo(call.op, algo);
  STD_TORCH_CHECK(dense(b), "lightops::", call.op, ": 'buffer' must be dense");
  const DenseLists lists{params, eps, frozen, masks};
  const size_t each = lists.each(bottleneck);
  const int64_t layers = int64_t(params.size() / each);
  STD_TORCH_CHECK(growth > 0 && b.c > layers * growth, "lightops::", call.op, ": 'buffer' has ", b.c,
                  " channels; want more than ", layers, " x ", growth);
  STD_TORCH_CHECK(needs.size() == params.size() + 1, "lightops::", call.op, ": 'needs' has ", needs.size(),
                  " entries; want ", params.size() + 1);
  f.in_channels = b.c - layers * growth;
  f.growth = growth;
  f.bottleneck = bottleneck;
  const auto take = [&](const char* name, const Tensor& t, int64_t elements) {
    return const_cast<void*>(call.vector(name, t, elements));
  };
  f.mean = take("mean", mean, b.c);
  f.variance = take("var", var, b.c);
  f.middle_mean = take("middle_mean", middle_mean, layers * bottleneck);
  f.middle_variance = take("middle_var", middle_var, layers * bottleneck);
  if (bottleneck > 0) {
    const Nhwc m = call.image("middle", middle, {layers * b.n, bottleneck, b.h, b.w});
    STD_TORCH_CHECK(dense(m), "lightops::", call.op, ": 'middle' must be dense");
    f.middle = m.data;
  }
  std::vector<DenseTrainLayer> steps;
  binding::dense_layers(DenseCheck(call), lists, &f, &steps);
  p.dbuffer = call.image("dbuffer", dbuffer, {b.n, b.c, b.h, b.w});

  Tensor dx = needs[0] ? call.new_image(b.n, f.in_channels, b.h, b.w) : call.new_tensor({0}, call.scalar());
  std::vector<Tensor> grads = binding::dense_gradients(params, needs, [&](const Tensor* param) {
    return param ? call.new_tensor(sizes_of(*param), param->scalar_type()) : new_vector(call, 0);
  });
  if (buffer.numel() == 0) {
    for (Tensor& g : grads) torch::stable::zero_(g);
    return {dx, grads};
  }
  const std::vector<DenseTrainGradient> places = binding::dense_places(grads, each);
  p.gradients = places.data();
  const int64_t pixels = b.n * b.h * b.w;
  Tensor gradient = call.new_tensor({pixels * b.c}, call.scalar()),
         dmiddle = call.new_tensor({pixels * bottleneck}, call.scalar());
  p.gradient = gradient.data_ptr();
  p.dmiddle = dmiddle.data_ptr();
  if (needs[0]) p.dx = call.image("dx", dx);
  call.run(p, cuda::dense_block_train_backward_cuda_workspace, cuda::dense_block_train_backward_cuda);
  return {dx, grads};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lightops, LIGHTOPS_CUDA_KEY, m) {
  m.impl("dense_block_train_backward", TORCH_BOX(&dense_block_train_backward));
}

}  // namespace cuda_binding
}  // namespace lightops
