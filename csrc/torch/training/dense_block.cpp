#include "dense_block.h"

#include <tuple>

namespace lightops {
namespace binding {

using Tensors = std::vector<OptionalTensor>;

namespace {

// An absent parameter may also come as an empty tensor: lists with None in them carry no gradients.
OptionalTensor present(const OptionalTensor& t) { return t.has_value() && t->numel() > 0 ? t : std::nullopt; }

}  // namespace

void dense_layers(const char* op, const Tensors& params, const std::vector<double>& eps, const Tensors& frozen,
                  const Tensors& masks, ScalarType scalar, DenseBlockTrainParams* p, DenseArguments* out) {
  const bool bottleneck = p->bottleneck > 0;
  const size_t each = bottleneck ? 6 : 3, norms = bottleneck ? 2 : 1;
  STD_TORCH_CHECK(p->in_channels > 0 && p->growth > 0 && p->bottleneck >= 0 && !params.empty() && params.size() % each == 0, "lightops::", op,
                  ": got ", params.size(), " parameter tensors, ", p->in_channels, " input channels, growth ", p->growth,
                  ", bottleneck ", p->bottleneck, "; want ", each, " tensors a layer");
  p->layers = int64_t(params.size() / each);
  const size_t layers = size_t(p->layers);
  STD_TORCH_CHECK(eps.size() == norms * layers, "lightops::", op, ": 'eps' has ", eps.size(), " entries; want ", norms * layers);
  STD_TORCH_CHECK(frozen.empty() || frozen.size() == 2 * norms * layers, "lightops::", op, ": 'frozen' has ", frozen.size(),
                  " entries; want 0 or ", 2 * norms * layers);
  STD_TORCH_CHECK(masks.empty() || masks.size() == layers, "lightops::", op, ": 'masks' has ", masks.size(),
                  " entries; want 0 or ", layers);
  const int64_t size = p->type == DType::f64 ? 8 : 4;
  const auto weight = [&](const char* name, size_t param, std::initializer_list<int64_t> want) {
    STD_TORCH_CHECK(params[param].has_value(), "lightops::", op, ": '", name, "' is missing");
    return weight_of(op, name, *params[param], scalar, want, &out->keep);
  };
  const auto norm = [&](size_t index, size_t param, int64_t channels, const void* mean, const void* variance) {
    Norm n;
    n.gamma = data_of(op, "gamma", present(params[param]), p->type, channels);
    n.beta = data_of(op, "beta", present(params[param + 1]), p->type, channels);
    n.eps = eps[index];
    n.mean = mean;
    n.var = variance;
    n.batch = true;
    if (!frozen.empty() && frozen[2 * index].has_value()) {
      STD_TORCH_CHECK(frozen[2 * index + 1].has_value(), "lightops::", op, ": 'frozen' has a mean without a variance");
      n.mean = data_of(op, "frozen mean", frozen[2 * index], p->type, channels);
      n.var = data_of(op, "frozen variance", frozen[2 * index + 1], p->type, channels);
      n.batch = false;
    }
    return n;
  };
  out->layers.resize(layers);
  for (size_t i = 0; i < layers; ++i) {
    DenseTrainLayer& l = out->layers[i];
    const int64_t prefix = p->in_channels + int64_t(i) * p->growth;
    l.norm1 = norm(norms * i, each * i, prefix, p->mean, p->variance);
    if (bottleneck) {
      const int64_t offset = int64_t(i) * p->bottleneck * size;
      l.weight1 = weight("w1", each * i + 2, {p->bottleneck, prefix, 1, 1});
      l.norm2 = norm(norms * i + 1, each * i + 3, p->bottleneck, static_cast<char*>(p->middle_mean) + offset,
                     static_cast<char*>(p->middle_variance) + offset);
    }
    l.weight2 = weight(bottleneck ? "w2" : "w", each * (i + 1) - 1, {p->growth, bottleneck ? p->bottleneck : prefix, 3, 3});
    if (!masks.empty() && masks[i].has_value()) {
      check_size(op, "mask", *masks[i], {p->buffer.n, p->growth, p->buffer.h, p->buffer.w});
      STD_TORCH_CHECK(masks[i]->scalar_type() == scalar, "lightops::", op, ": 'mask' and 'x' differ in type");
      l.mask = image_of(op, "mask", *masks[i]);
    }
  }
  p->layer = out->layers.data();
}

int64_t dense_work(const DenseBlockTrainParams& p) {
  int64_t per_pixel = 0;
  for (int64_t l = 0; l < p.layers; ++l) {
    const int64_t prefix = p.in_channels + l * p.growth;
    per_pixel += p.bottleneck ? p.bottleneck * (prefix + 9 * p.growth) : 9 * p.growth * prefix;
  }
  return p.buffer.n * p.buffer.h * p.buffer.w * per_pixel;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> dense_block_train(
    Tensor x, OptionalTensor mean_x, OptionalTensor var_x, Tensors params, std::vector<double> eps, Tensors frozen,
    Tensors masks, int64_t growth, int64_t bottleneck, int64_t algo) {
  const char* op = "dense_block_train";
  DenseBlockTrainParams p;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  Window three;
  three.kernel[0] = three.kernel[1] = 3;
  p.algo = algo_of(op, algo, three);
  STD_TORCH_CHECK(p.algo != Algo::winograd4, "lightops::", op, ": 'algo' is 4; want 0 (direct) or 2 (Winograd tile)");
  p.in_channels = p.x.c;
  p.growth = growth;
  p.bottleneck = bottleneck;
  STD_TORCH_CHECK(mean_x.has_value() == var_x.has_value(), "lightops::", op, ": one of 'mean_x' and 'var_x' without the other");
  const void* known_mean = data_of(op, "mean_x", mean_x, p.type, p.x.c);
  const void* known_var = data_of(op, "var_x", var_x, p.type, p.x.c);
  const int64_t layers = int64_t(params.size()) / (bottleneck > 0 ? 6 : 3);
  // Checked in full before anything is allocated; the statistics' places are filled in by the second call.
  p.buffer = p.x;
  DenseArguments checked;
  dense_layers(op, params, eps, frozen, masks, x.scalar_type(), &p, &checked);

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
  DenseArguments arguments;
  dense_layers(op, params, eps, frozen, masks, x.scalar_type(), &p, &arguments);
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
