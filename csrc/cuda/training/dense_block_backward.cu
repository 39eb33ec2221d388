// A dense block backward: layers last to first on one gradient buffer of the activations' type (stock's autograd adds up the
// gradients of a shared tensor in it too). What a norm's means take away from a channel's gradient is a multiple of (x - mean)
// and a constant: both are summed over the layers that read the channel, in float32, and applied once, before the channel's own
// gradient is used.
#include "training/dense_layers.h"
#include "training/elementwise.h"
#include "training/masked_gradient.h"
#include "training/wgrad.h"

namespace lightops::cuda {
namespace {

struct Backward {
  const DenseBlockTrainBackwardParams& p;
  const DenseBlockTrainParams& f;
  const Device& device;
  int bytes;
  Pieces pieces;
  float *scale, *shift;  // of the norm whose output a weight gradient reads
  float *slope, *constant;  // of every channel of the buffer
  PackedWeights weights;  // of every layer, the 1x1's first
  unsigned char* du;  // du: the gradient of what the layer's first convolution reads, where it is stored
  unsigned char* scratch;  // of the call under way
  Nhwc gradient, dmiddle;

  Backward(const DenseBlockTrainBackwardParams& params, const Device& d, void* workspace)
      : p(params), f(params.block), device(d), bytes(element_bytes(params.type)), pieces(workspace) {
    const int64_t channels = f.buffer.c, widest = std::max(channels, f.bottleneck);
    gradient = map_like(f.buffer, p.gradient, channels, channels);
    dmiddle = map_like(f.buffer, p.dmiddle, f.bottleneck, f.bottleneck);
    scale = pieces.take<float>(widest);
    shift = pieces.take<float>(widest);
    slope = pieces.take<float>(channels);
    constant = pieces.take<float>(channels);
    du = nullptr;
    int64_t most = 0, widest_du = 0;
    for (int64_t i = 0; i < f.layers; ++i) {
      const DenseStep s = dense_step(f, i);
      if (f.bottleneck) weights.add(weight1(s), pieces);
      weights.add(weight2(s), pieces);
      if (!masks_in_place(into_prefix(s, i), device)) widest_du = packed_row(s.first, bytes);
    }
    du = pieces.take<unsigned char>(f.buffer.n * f.buffer.h * f.buffer.w * widest_du * bytes);
    for (int64_t i = 0; i < f.layers; ++i) {
      const DenseStep s = dense_step(f, i);
      most =
          std::max({most, masked_gradient_workspace(into_prefix(s, i), device), wgrad_workspace(wgrad2(s, i), device)});
      if (!f.bottleneck) continue;
      most =
          std::max({most, masked_gradient_workspace(into_middle(s, i), device), wgrad_workspace(wgrad1(s, i), device)});
    }
    scratch = pieces.take<unsigned char>(most);
  }

  // The last layer takes the block's gradient where it lies, and leaves what it adds its own to in the gradient buffer.
  bool last(int64_t i) const { return i + 1 == f.layers; }
  Nhwc dslice(const DenseStep& s) const {
    return channel_slice(last(s.index) && !s.layer->mask.data ? p.dbuffer : gradient, s.first, f.growth, bytes);
  }
  Nhwc dprefix(const DenseStep& s) const { return map_like(f.buffer, du, s.first, packed_row(s.first, bytes)); }

  PackProblem weight1(const DenseStep& s) const {
    return packing(s.layer->weight1, f.bottleneck, s.first, kWindow1x1, p.type, Packing::input_gradient);
  }
  PackProblem weight2(const DenseStep& s) const {
    return packing(s.layer->weight2, f.growth, s.depth, kWindow3x3, p.type, Packing::input_gradient);
  }
  ConvProblem through_second(const DenseStep& s) const {
    return convolution(dslice(s), f.bottleneck ? dmiddle : dprefix(s), bytes, kWindow3x3,
                       weights[f.bottleneck ? 2 * s.index + 1 : s.index]);
  }
  ConvProblem through_first(const DenseStep& s) const {
    return convolution(dmiddle, dprefix(s), bytes, kWindow1x1, weights[2 * s.index]);
  }

  WgradProblem wgrad(const Nhwc& x, const Nhwc& dy, const Window& window, void* dweight) const {
    WgradProblem w;
    w.x = x;
    w.dy = dy;
    w.type = p.type;
    w.scale = scale;
    w.shift = shift;
    w.pre_act = Act::relu;
    w.window = window;
    w.dweight = dense_weight(dweight, x.c, window);
    return w;
  }
  WgradProblem wgrad1(const DenseStep& s, int64_t i) const {
    return wgrad(s.prefix, dmiddle, kWindow1x1, p.gradients[i].weight1);
  }
  WgradProblem wgrad2(const DenseStep& s, int64_t i) const {
    return wgrad(f.bottleneck ? s.middle : s.prefix, dslice(s), kWindow3x3, p.gradients[i].weight2);
  }

  NormGradient norm1(const DenseStep& s, int64_t i) const {
    NormGradient g =
        norm_gradient(dprefix(s), s.prefix, channel_slice(gradient, 0, s.first, bytes), p.type, s.layer->norm1,
                      Act::relu, static_cast<float*>(p.gradients[i].gamma1), static_cast<float*>(p.gradients[i].beta1));
    g.accumulate = true;
    g.before = channel_slice(last(i) ? p.dbuffer : gradient, 0, s.first, bytes);
    g.slope = s.layer->norm1.batch ? slope : nullptr;
    g.constant = s.layer->norm1.batch ? constant : nullptr;
    return g;
  }
  NormGradient norm2(const DenseStep& s, int64_t i) const {
    return norm_gradient(dmiddle, s.middle, dmiddle, p.type, s.layer->norm2, Act::relu,
                         static_cast<float*>(p.gradients[i].gamma2), static_cast<float*>(p.gradients[i].beta2));
  }

  // Input gradients of the layer's convolutions, through the norms before them.
  MaskedGradient into_middle(const DenseStep& s, int64_t i) const { return {{through_second(s)}, norm2(s, i)}; }
  MaskedGradient into_prefix(const DenseStep& s, int64_t i) const {
    return {{f.bottleneck ? through_first(s) : through_second(s)}, norm1(s, i)};
  }

  // Weight gradient of a convolution that reads act(norm(x)).
  void weight_gradient(Sequence& all, const WgradProblem& w, const Norm& norm, StreamHandle stream) const {
    if (!w.dweight.data) return;
    all.then([&] { return run_affine(norm, w.x.c, scale, shift, stream); }).then([&] {
      return run_wgrad(w, scratch, device, stream);
    });
  }
  void input_gradient(Sequence& all, const MaskedGradient& g, StreamHandle stream) const {
    all.then([&] { return run_masked_gradient(g, scratch, device, stream); });
  }

  Result finish(const Nhwc& from, const Nhwc& x, const Nhwc& to, int64_t first, StreamHandle stream) const {
    return run_finish_gradient(from, p.type, x, p.type, to, p.type, static_cast<const float*>(f.mean) + first,
                               slope + first, constant + first, stream);
  }

  Result layer(int64_t i, StreamHandle stream) const {
    const DenseStep s = dense_step(f, i);
    const Nhwc dy = dslice(s);
    Sequence all;
    if (!last(i)) all.then([&] { return finish(dy, s.slice, dy, s.first, stream); });
    if (s.layer->mask.data)
      all.then([&] {
        const Nhwc from = last(i) ? channel_slice(p.dbuffer, s.first, f.growth, bytes) : dy;
        return run_multiply(from, s.layer->mask, dy, p.type, stream);
      });
    weight_gradient(all, wgrad2(s, i), f.bottleneck ? s.layer->norm2 : s.layer->norm1, stream);
    if (f.bottleneck) {
      input_gradient(all, into_middle(s, i), stream);
      weight_gradient(all, wgrad1(s, i), s.layer->norm1, stream);
    }
    input_gradient(all, into_prefix(s, i), stream);
    return all.result;
  }
};

}  // namespace

int64_t dense_block_train_backward_cuda_workspace(const DenseBlockTrainBackwardParams& p, const Device& device) {
  return element_bytes(p.type) ? Backward(p, device, sizing_address()).pieces.used : 0;
}

Result dense_block_train_backward_cuda(const DenseBlockTrainBackwardParams& p, const Device& device,
                                       StreamHandle stream) {
  if (element_bytes(p.type) == 0) return {"the CUDA kernels take float16, bfloat16 and float32", 0};
  const Backward backward(p, device, p.workspace);
  const int64_t c0 = p.block.in_channels;
  Sequence all;
  if (p.block.layers == 0) all.then([&] { return run_multiply(p.dbuffer, Nhwc{}, backward.gradient, p.type, stream); });
  all.then([&] { return run_zero(backward.slope, p.block.buffer.c, stream); }).then([&] {
    return run_zero(backward.constant, p.block.buffer.c, stream);
  });
  all.then([&] { return run_packs(backward.weights.jobs, stream); });
  for (int64_t i = p.block.layers - 1; i >= 0; --i) all.then([&] { return backward.layer(i, stream); });
  if (p.dx.data)
    all.then([&] {
      const Nhwc prefix = channel_slice(p.block.buffer, 0, c0, backward.bytes);
      return backward.finish(channel_slice(backward.gradient, 0, c0, backward.bytes), prefix, p.dx, 0, stream);
    });
  return all.result;
}

}  // namespace lightops::cuda
