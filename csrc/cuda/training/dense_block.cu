// A dense block forward in training: layer after layer on one buffer, each convolution normalising what it reads. Statistics of a
// channel are taken once, when it is written.
#include "training/conv_stats.h"
#include "training/dense_layers.h"
#include "training/elementwise.h"
#include "training/norm.h"
#include "training/statistics.h"

namespace lightops::cuda {
namespace {

// The workspace, and the calls of a layer on it. Layers follow each other on one stream, so they share all of it.
struct Forward {
  const DenseBlockTrainParams& p;
  const Device& device;
  int bytes;
  Pieces pieces;
  float *scale, *shift;  // of the norm that the next convolution applies
  PackedWeights weights;  // of every layer, the 1x1's first
  unsigned char* scratch;  // of the call under way

  Forward(const DenseBlockTrainParams& params, const Device& d, void* workspace)
      : p(params), device(d), bytes(element_bytes(p.type)), pieces(workspace) {
    const int64_t widest = std::max(p.buffer.c, p.bottleneck);
    scale = pieces.take<float>(widest);
    shift = pieces.take<float>(widest);
    for (int64_t i = 0; i < p.layers; ++i) {
      const DenseStep s = dense_step(p, i);
      if (p.bottleneck) weights.add(weight1(s), pieces);
      weights.add(weight2(s), pieces);
    }
    int64_t most = p.x_known ? 0 : stats_workspace(channel_slice(p.buffer, 0, p.in_channels, bytes), device);
    for (int64_t i = 0; i < p.layers; ++i) {
      const DenseStep s = dense_step(p, i);
      most = std::max({most, conv_stats_workspace(second(s), p.type, device), stats_workspace(s.slice, device)});
      if (!p.bottleneck) continue;
      most = std::max(most, conv_stats_workspace(first(s), p.type, device));
    }
    scratch = pieces.take<unsigned char>(most);
  }

  PackProblem weight1(const DenseStep& s) const {
    return packing(s.layer->weight1, p.bottleneck, s.first, kWindow1x1, p.type, Packing::forward);
  }
  PackProblem weight2(const DenseStep& s) const {
    return packing(s.layer->weight2, p.growth, s.depth, kWindow3x3, p.type, Packing::forward);
  }
  ConvProblem normalised(const Nhwc& x, const Nhwc& out, const Window& window, const void* packed) const {
    ConvProblem c = convolution(x, out, bytes, window, packed);
    c.scale = scale;
    c.shift = shift;
    c.pre_act = Act::relu;
    return c;
  }
  ConvProblem first(const DenseStep& s) const {
    return normalised(s.prefix, s.middle, kWindow1x1, weights[2 * s.index]);
  }
  ConvProblem second(const DenseStep& s) const {
    return normalised(p.bottleneck ? s.middle : s.prefix, s.slice, kWindow3x3,
                      weights[p.bottleneck ? 2 * s.index + 1 : s.index]);
  }

  // affine, convolution, statistics
  Result layer(const DenseStep& s, StreamHandle stream) const {
    Sequence all;
    float* const mean = static_cast<float*>(p.mean) + s.first;
    float* const variance = static_cast<float*>(p.variance) + s.first;
    const Norm* last = &s.layer->norm1;
    if (p.bottleneck) {
      all.then([&] { return run_affine(s.layer->norm1, s.first, scale, shift, stream); }).then([&] {
        return run_conv_stats(first(s), p.type, s.middle_mean, s.middle_variance, scratch, device, stream);
      });
      last = &s.layer->norm2;
    }
    all.then([&] { return run_affine(*last, s.depth, scale, shift, stream); });
    if (!s.layer->mask.data)
      return all.then([&] { return run_conv_stats(second(s), p.type, mean, variance, scratch, device, stream); })
          .result;
    // Dropout: the statistics are those of what it leaves.
    return all.then([&] { return run_conv(second(s), p.type, device, scratch, stream); })
        .then([&] { return run_multiply(s.slice, s.layer->mask, s.slice, p.type, stream); })
        .then([&] { return run_stats(s.slice, p.type, mean, variance, scratch, device, stream); })
        .result;
  }
};

}  // namespace

int64_t dense_block_train_cuda_workspace(const DenseBlockTrainParams& p, const Device& device) {
  return element_bytes(p.type) ? Forward(p, device, sizing_address()).pieces.used : 0;
}

Result dense_block_train_cuda(const DenseBlockTrainParams& p, const Device& device, StreamHandle stream) {
  if (element_bytes(p.type) == 0) return {"the CUDA kernels take float16, bfloat16 and float32", 0};
  const Forward forward(p, device, p.workspace);
  const Nhwc prefix = channel_slice(p.buffer, 0, p.in_channels, forward.bytes);
  Sequence all;
  if (p.x.data != p.buffer.data) all.then([&] { return run_multiply(p.x, Nhwc{}, prefix, p.type, stream); });
  if (!p.x_known)
    all.then([&] {
      return run_stats(prefix, p.type, static_cast<float*>(p.mean), static_cast<float*>(p.variance), forward.scratch,
                       device, stream);
    });
  all.then([&] { return run_packs(forward.weights.jobs, stream); });
  for (int64_t i = 0; i < p.layers; ++i) all.then([&] { return forward.layer(dense_step(p, i), stream); });
  return all.result;
}

}  // namespace lightops::cuda
