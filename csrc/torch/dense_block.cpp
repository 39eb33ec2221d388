#include "lightops/dense_block.h"

#include "common.h"

namespace lightops {
namespace binding {
namespace {

// Fills everything but the buffer. `params` holds, per layer, (scale, shift, w1, bias1, w2) or (scale, shift, w).
void fill(const char* op, const std::vector<Tensor>& params, int64_t in_channels, int64_t growth, int64_t bottleneck,
          int64_t algo, DType type, DenseBlockParams* p, std::vector<DenseLayerWeights>* weights) {
  const size_t each = bottleneck > 0 ? 5 : 3;
  STD_TORCH_CHECK(in_channels > 0 && growth > 0 && bottleneck >= 0 && params.size() % each == 0, "lightops::", op,
                  ": got ", params.size(), " parameter tensors, ", in_channels, " input channels, growth ", growth,
                  ", bottleneck ", bottleneck, "; want ", each, " tensors a layer");
  Window three;
  three.kernel[0] = three.kernel[1] = 3;
  p->type = type;
  p->in_channels = in_channels;
  p->growth = growth;
  p->bottleneck = bottleneck;
  p->layers = int64_t(params.size() / each);
  p->algo = algo_of(op, algo, three);
  p->pairs = !params.empty() && pairs_of(op, bottleneck ? "w1" : "w", params[2], type);
  weights->resize(size_t(p->layers));
  for (int64_t l = 0; l < p->layers; ++l) {
    const Tensor* t = &params[size_t(l) * each];
    const int64_t prefix = in_channels + l * growth;
    DenseLayerWeights& w = (*weights)[size_t(l)];
    w.scale = data_of(op, "scale", t[0], type, prefix);
    w.shift = data_of(op, "shift", t[1], type, prefix);
    if (bottleneck) {
      w.weight1 = weight_of(op, "w1", t[2], type, p->pairs, bottleneck, prefix);
      w.bias1 = data_of(op, "bias1", t[3], type, bottleneck);
      w.weight2 = weight_of(op, "w2", t[4], type, p->pairs, growth, bottleneck, 3, 3, p->algo);
    } else {
      w.weight2 = weight_of(op, "w", t[2], type, p->pairs, growth, prefix, 3, 3, p->algo);
    }
  }
  p->weights = weights->data();
}

void launch(DenseBlockParams* p) {
  int64_t per_pixel = 0;
  for (int64_t l = 0; l < p->layers; ++l) {
    const int64_t prefix = p->in_channels + l * p->growth;
    per_pixel += p->bottleneck ? p->bottleneck * (prefix + 9 * p->growth) : 9 * p->growth * prefix;
  }
  p->parallel = parallel_for_work(p->buffer.n * p->buffer.h * p->buffer.w * per_pixel);
  p->workspace = workspace(dense_block_workspace(*p));
  dense_block_cpu(*p);
}

}  // namespace

Tensor dense_block(Tensor x, std::vector<Tensor> params, int64_t growth, int64_t bottleneck, int64_t algo) {
  const char* op = "dense_block";
  const Nhwc in = image_of(op, "x", x);
  DenseBlockParams p;
  std::vector<DenseLayerWeights> weights;
  fill(op, params, in.c, growth, bottleneck, algo, dtype_of(op, "x", x), &p, &weights);
  Tensor buffer = new_image(in.n, in.c + p.layers * growth, in.h, in.w, x.scalar_type());
  if (buffer.numel() == 0) return buffer;
  Tensor prefix = torch::stable::narrow(buffer, 1, 0, in.c);
  torch::stable::copy_(prefix, x);
  p.buffer = image_of(op, "buffer", buffer);
  launch(&p);
  return buffer;
}

void dense_block_inplace(Tensor buffer, std::vector<Tensor> params, int64_t in_channels, int64_t growth,
                         int64_t bottleneck, int64_t algo) {
  const char* op = "dense_block_";
  DenseBlockParams p;
  std::vector<DenseLayerWeights> weights;
  fill(op, params, in_channels, growth, bottleneck, algo, dtype_of(op, "buffer", buffer), &p, &weights);
  p.buffer = image_of(op, "buffer", buffer);
  STD_TORCH_CHECK(p.buffer.c == in_channels + p.layers * growth, "lightops::", op, ": 'buffer' has ", p.buffer.c,
                  " channels; want ", in_channels, " + ", p.layers, " x ", growth);
  if (buffer.numel() > 0) launch(&p);
}

STABLE_TORCH_LIBRARY_FRAGMENT(lightops, m) {
  m.def("dense_block(Tensor x, Tensor[] params, int growth, int bottleneck, int algo) -> Tensor");
  m.def(
      "dense_block_(Tensor(a!) buffer, Tensor[] params, int in_channels, int growth, int bottleneck, int algo) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) {
  m.impl("dense_block", TORCH_BOX(&dense_block));
  m.impl("dense_block_", TORCH_BOX(&dense_block_inplace));
}

}  // namespace binding
}  // namespace lightops
