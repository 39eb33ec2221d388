// Fire backward: the squeezed map is computed again, masks come from the outputs. A mask is the backward pass of an activation
// without a norm (norm.h), so it costs one pass over the tensor.
#include "lightops/training/cuda.h"
#include "training/channel_sum.h"
#include "training/layer.h"
#include "training/norm.h"
#include "training/wgrad.h"

namespace lightops::cuda {
namespace {

struct Backward {
  const FireTrainBackwardParams& p;
  const Device& device;
  int bytes;
  int64_t expand3;
  Pieces pieces;
  PackedWeights weights;
  enum Weight { kAgain, kThroughExpand1, kThroughExpand3, kThroughSqueeze };  // in the order they are added
  unsigned char* scratch;
  Nhwc masked, squeeze, dsqueeze;

  Backward(const FireTrainBackwardParams& params, const Device& d, void* workspace)
      : p(params), device(d), bytes(element_bytes(p.type)), expand3(p.out.c - p.expand1), pieces(workspace) {
    squeeze = map_like(p.x, p.squeeze, p.squeeze_channels, p.squeeze_channels);
    dsqueeze = map_like(p.x, p.dsqueeze, p.squeeze_channels, p.squeeze_channels);
    const int64_t pixel = packed_row(p.out.c, bytes);
    masked = map_like(p.out, pieces.take<unsigned char>(p.out.n * p.out.h * p.out.w * pixel * bytes), p.out.c, pixel);
    for (const PackProblem& weight : {again(), through_expand1(), through_expand3(), through_squeeze()})
      weights.add(weight, pieces);
    int64_t most = std::max(
        {conv_workspace(first(), device), wgrad_workspace(wgrad1(), device), wgrad_workspace(wgrad3(), device)});
    most = std::max(
        {most, mask_workspace(p.out, masked), mask_workspace(squeeze, dsqueeze), wgrad_workspace(wgrads(), device)});
    for (const ConvProblem& c : {into_squeeze1(), into_squeeze3(), into_x()})
      most = std::max(most, conv_workspace(c, device));
    for (const Nhwc& dy : {d1(), d3(), dsqueeze}) most = std::max(most, channel_sum_workspace(dy, p.type));
    scratch = pieces.take<unsigned char>(most);
  }

  Nhwc d1() const { return channel_slice(masked, 0, p.expand1, bytes); }
  Nhwc d3() const { return channel_slice(masked, p.expand1, expand3, bytes); }

  PackProblem again() const { return packing(p.ws, p.squeeze_channels, p.x.c, kWindow1x1, p.type, Packing::forward); }
  PackProblem through_squeeze() const {
    return packing(p.ws, p.squeeze_channels, p.x.c, kWindow1x1, p.type, Packing::input_gradient);
  }
  PackProblem through_expand1() const {
    return packing(p.w1, p.expand1, p.squeeze_channels, kWindow1x1, p.type, Packing::input_gradient);
  }
  PackProblem through_expand3() const {
    return packing(p.w3, expand3, p.squeeze_channels, kWindow3x3, p.type, Packing::input_gradient);
  }

  ConvProblem first() const {
    ConvProblem c = convolution(p.x, squeeze, bytes, kWindow1x1, weights[kAgain]);
    c.bias = p.bs;
    c.act = Act::relu;
    return c;
  }
  ConvProblem into_squeeze1() const { return convolution(d1(), dsqueeze, bytes, kWindow1x1, weights[kThroughExpand1]); }
  ConvProblem into_squeeze3() const {
    ConvProblem c = convolution(d3(), dsqueeze, bytes, kWindow3x3, weights[kThroughExpand3]);
    c.residual = dsqueeze;
    return c;
  }
  ConvProblem into_x() const {
    Nhwc dx = p.dx;
    if (!dx.data) dx = p.x;  // only its size is asked for
    return convolution(dsqueeze, dx, bytes, kWindow1x1, weights[kThroughSqueeze]);
  }

  WgradProblem wgrad(const Nhwc& x, const Nhwc& dy, const Window& window, void* dweight, void* dbias) const {
    WgradProblem w;
    w.x = x;
    w.dy = dy;
    w.type = p.type;
    w.window = window;
    w.dweight = dense_weight(dweight, x.c, window);
    w.dbias = dbias;
    return w;
  }
  WgradProblem wgrad1() const { return wgrad(squeeze, d1(), kWindow1x1, p.dw1, p.db1); }
  WgradProblem wgrad3() const { return wgrad(squeeze, d3(), kWindow3x3, p.dw3, p.db3); }
  WgradProblem wgrads() const { return wgrad(p.x, dsqueeze, kWindow1x1, p.dws, p.dbs); }

  // to = from where out > 0, else 0.
  NormGradient mask_of(const Nhwc& from, const Nhwc& out, const Nhwc& to) const {
    return norm_gradient(from, out, to, p.type, Norm{}, Act::relu, nullptr, nullptr);
  }
  int64_t mask_workspace(const Nhwc& out, const Nhwc& to) const {
    return norm_backward_workspace(mask_of(to, out, to), device);
  }

  void parameters(Sequence& all, const WgradProblem& w, StreamHandle stream) const {
    if (w.dweight.data) all.then([&] { return run_wgrad(w, scratch, device, stream); });
    else if (w.dbias) all.then([&] { return run_channel_sum(w.dy, p.type, w.dbias, scratch, stream); });
  }
  void convolve(Sequence& all, const ConvProblem& conv, StreamHandle stream) const {
    all.then([&] { return run_conv(conv, p.type, device, scratch, stream); });
  }
};

}  // namespace

int64_t fire_train_backward_cuda_workspace(const FireTrainBackwardParams& p, const Device& device) {
  return element_bytes(p.type) ? Backward(p, device, sizing_address()).pieces.used : 0;
}

Result fire_train_backward_cuda(const FireTrainBackwardParams& p, const Device& device, StreamHandle stream) {
  if (element_bytes(p.type) == 0) return {"the CUDA kernels take float16, bfloat16 and float32", 0};
  const Backward b(p, device, p.workspace);
  Sequence all;
  all.then([&] { return run_packs(b.weights.jobs, stream); });
  b.convolve(all, b.first(), stream);
  all.then([&] { return run_norm_backward(b.mask_of(p.dout, p.out, b.masked), b.scratch, device, stream); });
  b.parameters(all, b.wgrad1(), stream);
  b.parameters(all, b.wgrad3(), stream);
  if (!p.dsqueeze) return all.result;
  b.convolve(all, b.into_squeeze1(), stream);
  b.convolve(all, b.into_squeeze3(), stream);
  all.then([&] { return run_norm_backward(b.mask_of(b.dsqueeze, b.squeeze, b.dsqueeze), b.scratch, device, stream); });
  b.parameters(all, b.wgrads(), stream);
  if (p.dx.data) b.convolve(all, b.into_x(), stream);
  return all.result;
}

}  // namespace lightops::cuda
