#include "dense_block.h"

#include <tuple>

namespace lightops {
namespace binding {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> dense_block_train(
    Tensor x, OptionalTensor mean_x, OptionalTensor var_x, OptionalTensors params, std::vector<double> eps,
    OptionalTensors frozen, OptionalTensors masks, int64_t growth, int64_t bottleneck, int64_t algo) {
  const char* op = "dense_block_train";
  DenseBlockTrainParams p;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  p.algo = train_algo(op, algo);
  p.in_channels = p.x.c;
  p.growth = growth;
  p.bottleneck = bottleneck;
  STD_TORCH_CHECK(mean_x.has_value() == var_x.has_value(), "lightops::", op,
                  ": one of 'mean_x' and 'var_x' without the other");
  const void* known_mean = data_of(op, "mean_x", mean_x, p.type, p.x.c);
  const void* known_var = data_of(op, "var_x", var_x, p.type, p.x.c);
  const int64_t layers = int64_t(params.size()) / (bottleneck > 0 ? 6 : 3);
  // Checked in full before anything is allocated; the statistics' places are filled in by the second call.
  p.buffer = p.x;
  const DenseLists lists{params, eps, frozen, masks};
  std::vector<DenseTrainLayer> layer;
  std::vector<Tensor> keep;
  dense_layers(DenseCheck{op, p.type, x.scalar_type(), &keep}, lists, &p, &layer);

  const int64_t channels = p.x.c + layers * growth;
  Tensor buffer = new_image(p.x.n, channels, p.x.h, p.x.w, x.scalar_type());
  Tensor middle = new_image(bottleneck ? layers * p.x.n : 0, bottleneck, p.x.h, p.x.w, x.scalar_type());
  const int64_t each[2] = {layers, bottleneck};
  Tensor mean = new_vector(channels, compute_type(p.type)), var = new_vector(channels, compute_type(p.type));
  Tensor middle_mean = torch::stable::empty({each, 2}, compute_type(p.type));
  Tensor middle_var = torch::stable::empty({each, 2}, compute_type(p.type));
  p.buffer = image_of(op, "buffer", buffer);
  p.middle = middle.data_ptr();
  p.mean = mean.data_ptr();
  p.variance = var.data_ptr();
  p.middle_mean = middle_mean.data_ptr();
  p.middle_variance = middle_var.data_ptr();
  dense_layers(DenseCheck{op, p.type, x.scalar_type(), &keep}, lists, &p, &layer);
  p.x_known = known_mean != nullptr;
  if (p.x_known) {
    const size_t bytes = size_t(p.x.c) * (p.type == DType::f64 ? 8 : 4);
    memcpy(p.mean, known_mean, bytes);
    memcpy(p.variance, known_var, bytes);
  }
  if (buffer.numel() > 0) {
    p.parallel = parallel_for_work(dense_work(p));
    p.workspace = workspace(dense_block_train_workspace(p));
    dense_block_train_cpu(p);
  }
  return {buffer, middle, mean, var, middle_mean, middle_var};
}

STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) { m.impl("dense_block_train", TORCH_BOX(&dense_block_train)); }

}  // namespace binding
}  // namespace lightops
