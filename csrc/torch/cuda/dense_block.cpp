#include "common.h"

namespace lightops {
namespace cuda_binding {
namespace {

// Everything but the buffer. `params` holds, per layer, (scale, shift, w1, bias1, w2) or (scale, shift, w).
DenseBlockParams fill(const Call& call, const std::vector<Tensor>& params, int64_t in_channels, int64_t growth,
                      int64_t bottleneck, std::vector<DenseLayerWeights>* weights) {
  const size_t each = bottleneck > 0 ? 5 : 3;
  STD_TORCH_CHECK(in_channels > 0 && growth > 0 && bottleneck >= 0 && params.size() % each == 0, "lightops::", call.op,
                  ": got ", params.size(), " parameter tensors, ", in_channels, " input channels, growth ", growth,
                  ", bottleneck ", bottleneck, "; want ", each, " tensors a layer");
  DenseBlockParams p;
  p.type = call.type;
  p.in_channels = in_channels;
  p.growth = growth;
  p.bottleneck = bottleneck;
  p.layers = static_cast<int64_t>(params.size() / each);
  weights->resize(params.size() / each);
  for (int64_t l = 0; l < p.layers; ++l) {
    const Tensor* t = &params[static_cast<size_t>(l) * each];
    const int64_t prefix = in_channels + l * growth;
    DenseLayerWeights& w = (*weights)[static_cast<size_t>(l)];
    w.scale = call.vector("scale", t[0], prefix);
    w.shift = call.vector("shift", t[1], prefix);
    if (bottleneck) {
      w.weight1 = call.weight("w1", t[2], 1, bottleneck, prefix);
      w.bias1 = call.vector("bias1", t[3], bottleneck);
      w.weight2 = call.weight("w2", t[4], 9, growth, bottleneck);
    } else {
      w.weight2 = call.weight("w", t[2], 9, growth, prefix);
    }
  }
  p.weights = weights->data();
  return p;
}

// `algo` chooses between the CPU's sums; the tensor cores have one.
Tensor dense_block(Tensor x, std::vector<Tensor> params, int64_t growth, int64_t bottleneck, int64_t) {
  const Call call("dense_block", x);
  const Nhwc in = call.image("x", x);
  std::vector<DenseLayerWeights> weights;
  DenseBlockParams p = fill(call, params, in.c, growth, bottleneck, &weights);
  Tensor buffer = call.new_image(in.n, in.c + p.layers * growth, in.h, in.w);
  if (buffer.numel() == 0) return buffer;
  Tensor prefix = torch::stable::narrow(buffer, 1, 0, in.c);
  torch::stable::copy_(prefix, x);
  p.buffer = call.image("buffer", buffer);
  call.run(p, cuda::dense_block_cuda_workspace, cuda::dense_block_cuda);
  return buffer;
}

void dense_block_inplace(Tensor buffer, std::vector<Tensor> params, int64_t in_channels, int64_t growth,
                         int64_t bottleneck, int64_t) {
  const Call call("dense_block_", buffer);
  std::vector<DenseLayerWeights> weights;
  DenseBlockParams p = fill(call, params, in_channels, growth, bottleneck, &weights);
  p.buffer = call.image("buffer", buffer);
  STD_TORCH_CHECK(p.buffer.c == in_channels + p.layers * growth, "lightops::", call.op, ": 'buffer' has ", p.buffer.c,
                  " channels; want ", in_channels, " + ", p.layers, " x ", growth);
  if (buffer.numel() > 0) call.run(p, cuda::dense_block_cuda_workspace, cuda::dense_block_cuda);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lightops, LIGHTOPS_CUDA_KEY, m) {
  m.impl("dense_block", TORCH_BOX(&dense_block));
  m.impl("dense_block_", TORCH_BOX(&dense_block_inplace));
}

}  // namespace cuda_binding
}  // namespace lightops
