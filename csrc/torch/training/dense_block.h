// Arguments that the forward and the backward bindings of a dense block in training share, on any device.
#pragma once

#include "common.h"
#include "lightops/training/dense_block.h"

namespace lightops {
namespace binding {

using OptionalTensors = std::vector<OptionalTensor>;

// How the lists of a dense block come; empty `frozen` and `masks`: none.
struct DenseLists {
  const OptionalTensors& params;
  const std::vector<double>& eps;
  const OptionalTensors &frozen, &masks;

  size_t each(int64_t bottleneck) const { return bottleneck > 0 ? 6 : 3; }
};

// Checks and fills everything but the tensors that are the op's own; norms with batch statistics get those at `mean`, `variance` (of
// the buffer) and `middle_mean`, `middle_variance`. `check` is of the device: vector(name, tensor, elements), weight(name, tensor,
// size) and image(name, tensor, size). `layers` is what p->layer then points to.
template <class Check>
void dense_layers(const Check& check, const DenseLists& lists, DenseBlockTrainParams* p,
                  std::vector<DenseTrainLayer>* out) {
  const OptionalTensors &params = lists.params, &frozen = lists.frozen, &masks = lists.masks;
  const std::vector<double>& eps = lists.eps;
  const char* const op = check.op;
  const bool bottleneck = p->bottleneck > 0;
  const size_t each = lists.each(p->bottleneck), norms = bottleneck ? 2 : 1;
  STD_TORCH_CHECK(
      p->in_channels > 0 && p->growth > 0 && p->bottleneck >= 0 && !params.empty() && params.size() % each == 0,
      "lightops::", op, ": got ", params.size(), " parameter tensors, ", p->in_channels, " input channels, growth ",
      p->growth, ", bottleneck ", p->bottleneck, "; want ", each, " tensors a layer");
  p->layers = int64_t(params.size() / each);
  const size_t layers = size_t(p->layers);
  STD_TORCH_CHECK(eps.size() == norms * layers, "lightops::", op, ": 'eps' has ", eps.size(), " entries; want ",
                  norms * layers);
  STD_TORCH_CHECK(frozen.empty() || frozen.size() == 2 * norms * layers, "lightops::", op, ": 'frozen' has ",
                  frozen.size(), " entries; want 0 or ", 2 * norms * layers);
  STD_TORCH_CHECK(masks.empty() || masks.size() == layers, "lightops::", op, ": 'masks' has ", masks.size(),
                  " entries; want 0 or ", layers);
  // An absent parameter may also come as an empty tensor: lists with None in them carry no gradients.
  const auto vector = [&](const char* name, size_t param, int64_t channels) {
    const OptionalTensor& t = params[param];
    return check.vector(name, t.has_value() && t->numel() > 0 ? t : OptionalTensor(), channels);
  };
  const auto weight = [&](const char* name, size_t param, std::initializer_list<int64_t> want) {
    STD_TORCH_CHECK(params[param].has_value(), "lightops::", op, ": '", name, "' is missing");
    return check.weight(name, *params[param], want);
  };
  const auto norm = [&](size_t index, size_t param, int64_t channels, const void* mean, const void* variance) {
    Norm n;
    n.gamma = vector("gamma", param, channels);
    n.beta = vector("beta", param + 1, channels);
    n.eps = eps[index];
    n.mean = mean;
    n.var = variance;
    n.batch = true;
    if (!frozen.empty() && frozen[2 * index].has_value()) {
      STD_TORCH_CHECK(frozen[2 * index + 1].has_value(), "lightops::", op, ": 'frozen' has a mean without a variance");
      n.mean = check.vector("frozen mean", frozen[2 * index], channels);
      n.var = check.vector("frozen variance", frozen[2 * index + 1], channels);
      n.batch = false;
    }
    return n;
  };
  out->resize(layers);
  for (size_t i = 0; i < layers; ++i) {
    DenseTrainLayer& l = (*out)[i];
    const int64_t prefix = p->in_channels + int64_t(i) * p->growth;
    l.norm1 = norm(norms * i, each * i, prefix, p->mean, p->variance);
    if (bottleneck) {
      const int64_t offset = int64_t(i) * p->bottleneck * (p->type == DType::f64 ? 8 : 4);
      l.weight1 = weight("w1", each * i + 2, {p->bottleneck, prefix, 1, 1});
      l.norm2 = norm(norms * i + 1, each * i + 3, p->bottleneck, static_cast<char*>(p->middle_mean) + offset,
                     static_cast<char*>(p->middle_variance) + offset);
    }
    l.weight2 =
        weight(bottleneck ? "w2" : "w", each * (i + 1) - 1, {p->growth, bottleneck ? p->bottleneck : prefix, 3, 3});
    if (!masks.empty() && masks[i].has_value())
      l.mask = check.image("mask", *masks[i], {p->buffer.n, p->growth, p->buffer.h, p->buffer.w});
  }
  p->layer = out->data();
}

// The gradients of the parameters: make(parameter) of those that are wanted, make(nullptr), an empty tensor, of others.
template <class Make>
std::vector<Tensor> dense_gradients(const OptionalTensors& params, const std::vector<bool>& needs, const Make& make) {
  std::vector<Tensor> grads;
  for (size_t i = 0; i < params.size(); ++i) {
    const bool wanted = needs[i + 1] && params[i].has_value() && params[i]->numel() > 0;
    grads.push_back(make(wanted ? &*params[i] : nullptr));
  }
  return grads;
}

// Where a kernel writes them: layer by layer, `each` tensors a layer.
inline std::vector<DenseTrainGradient> dense_places(const std::vector<Tensor>& grads, size_t each) {
  std::vector<DenseTrainGradient> places(grads.size() / each);
  for (size_t l = 0; l < places.size(); ++l) {
    const Tensor* const g = &grads[each * l];
    places[l].gamma1 = data_or_null(g[0]);
    places[l].beta1 = data_or_null(g[1]);
    places[l].weight2 = data_or_null(g[each - 1]);
    if (each == 3) continue;  // without bottleneck
    places[l].weight1 = data_or_null(g[2]);
    places[l].gamma2 = data_or_null(g[3]);
    places[l].beta2 = data_or_null(g[4]);
  }
  return places;
}

// The checks on the CPU; `keep` holds converted weights.
struct DenseCheck {
  const char* op;
  DType type;
  ScalarType scalar;
  std::vector<Tensor>* keep;

  const void* vector(const char* name, const OptionalTensor& t, int64_t elements) const {
    return data_of(op, name, t, type, elements);
  }
  TrainWeight weight(const char* name, const Tensor& t, std::initializer_list<int64_t> size) const {
    return weight_of(op, name, t, scalar, size, keep);
  }
  Nhwc image(const char* name, const Tensor& t, std::initializer_list<int64_t> size) const {
    check_size(op, name, t, size);
    STD_TORCH_CHECK(t.scalar_type() == scalar, "lightops::", op, ": '", name, "' and 'x' differ in type");
    return image_of(op, name, t);
  }
};

// Multiply-adds of one forward pass.
inline int64_t dense_work(const DenseBlockTrainParams& p) {
  int64_t per_pixel = 0;
  for (int64_t l = 0; l < p.layers; ++l) {
    const int64_t prefix = p.in_channels + l * p.growth;
    per_pixel += p.bottleneck ? p.bottleneck * (prefix + 9 * p.growth) : 9 * p.growth * prefix;
  }
  return p.buffer.n * p.buffer.h * p.buffer.w * per_pixel;
}

}  // namespace binding
}  // namespace lightops
