#include "dense_block.h"

namespace lightops {
namespace cuda_binding {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> dense_block_train(
    Tensor x, OptionalTensor mean_x, OptionalTensor var_x, OptionalTensors params, std::vector<double> eps,
    OptionalTensors frozen, OptionalTensors masks, int64_t growth, int64_t bottleneck, int64_t algo) {
  const Call call("dense_block_train", x);
  DenseBlockTrainParams p;
  p.x = call.image("x", x);
  p.type = call.type;
  p.algo = binding::train_algo(call.op, algo);
  p.in_channels = p.x.c;
  p.growth = growth;
  p.bottleneck = bottleneck;
  STD_TORCH_CHECK(mean_x.has_value() == var_x.has_value(), "lightops::", call.op,
                  ": one of 'mean_x' and 'var_x' without the other");
  p.x_known = call.vector("mean_x", mean_x, p.x.c) && call.vector("var_x", var_x, p.x.c);
  // Checked in full before anything is allocated; the statistics' places are filled in by the second call.
  const DenseLists lists{params, eps, frozen, masks};
  std::vector<DenseTrainLayer> layer;
  p.buffer = p.x;
  binding::dense_layers(DenseCheck(call), lists, &p, &layer);

  const int64_t channels = p.x.c + p.layers * growth;
  Tensor buffer = call.new_image(p.x.n, channels, p.x.h, p.x.w);
  Tensor middle = call.new_image(bottleneck ? p.layers * p.x.n : 0, bottleneck, p.x.h, p.x.w);
  Tensor mean = new_vector(call, channels), var = new_vector(call, channels);
  Tensor middle_mean = call.new_tensor({p.layers, bottleneck}, ScalarType::Float);
  Tensor middle_var = call.new_tensor({p.layers, bottleneck}, ScalarType::Float);
  p.buffer = call.image("buffer", buffer);
  p.middle = middle.data_ptr();
  p.mean = mean.data_ptr();
  p.variance = var.data_ptr();
  p.middle_mean = middle_mean.data_ptr();
  p.middle_variance = middle_var.data_ptr();
  binding::dense_layers(DenseCheck(call), lists, &p, &layer);
  if (p.x_known) {
    Tensor first_mean = torch::stable::narrow(mean, 0, 0, p.x.c), first_var = torch::stable::narrow(var, 0, 0, p.x.c);
    torch::stable::copy_(first_mean, *mean_x);
    torch::stable::copy_(first_var, *var_x);
  }
  if (buffer.numel() > 0) call.run(p, cuda::dense_block_train_cuda_workspace, cuda::dense_block_train_cuda);
  return {buffer, middle, mean, var, middle_mean, middle_var};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lightops, LIGHTOPS_CUDA_KEY, m) {
  m.impl("dense_block_train", TORCH_BOX(&dense_block_train));
}

}  // namespace cuda_binding
}  // namespace lightops
