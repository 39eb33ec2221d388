// Fire forward in training: the inference kernel on weights packed at every step, or, where its tile does not fit shared memory,
// the three convolutions one by one.
#include "lightops/training/cuda.h"
#include "training/layer.h"

namespace lightops::cuda {
namespace {

struct Forward {
  const FireTrainParams& p;
  int bytes;
  int64_t expand3;
  Pieces pieces;
  unsigned char *ws, *w1, *w3;  // packed
  Nhwc squeeze;
  unsigned char* scratch;

  Forward(const FireTrainParams& params, const Device& device, void* workspace)
      : p(params), bytes(element_bytes(p.type)), expand3(p.out.c - p.expand1), pieces(workspace) {
    ws = pieces.take<unsigned char>(packed_bytes(squeeze_weight()));
    w1 = pieces.take<unsigned char>(packed_bytes(expand1_weight()));
    w3 = pieces.take<unsigned char>(packed_bytes(expand3_weight()));
    const int64_t pixel = packed_row(p.squeeze, bytes);
    squeeze = map_like(p.x, pieces.take<unsigned char>(p.x.n * p.x.h * p.x.w * pixel * bytes), p.squeeze, pixel);
    scratch = pieces.take<unsigned char>(
        std::max({conv_workspace(first(), device), conv_workspace(second(), device), conv_workspace(third(), device)}));
  }

  PackProblem squeeze_weight() const { return packing(p.ws, p.squeeze, p.x.c, kWindow1x1, p.type, Packing::forward); }
  PackProblem expand1_weight() const {
    return packing(p.w1, p.expand1, p.squeeze, kWindow1x1, p.type, Packing::forward);
  }
  PackProblem expand3_weight() const { return packing(p.w3, expand3, p.squeeze, kWindow3x3, p.type, Packing::forward); }

  ConvProblem relu(ConvProblem c, const void* bias) const {
    c.bias = bias;
    c.act = Act::relu;
    return c;
  }
  ConvProblem first() const { return relu(convolution(p.x, squeeze, bytes, kWindow1x1, ws), p.bs); }
  ConvProblem second() const {
    return relu(convolution(squeeze, channel_slice(p.out, 0, p.expand1, bytes), bytes, kWindow1x1, w1), p.b1);
  }
  ConvProblem third() const {
    return relu(convolution(squeeze, channel_slice(p.out, p.expand1, expand3, bytes), bytes, kWindow3x3, w3), p.b3);
  }

  FireParams fused() const {
    FireParams q;
    q.x = p.x;
    q.out = p.out;
    q.type = p.type;
    q.squeeze = ws;
    q.squeeze_bias = p.bs;
    q.squeeze_channels = p.squeeze;
    q.expand1 = w1;
    q.expand1_bias = p.b1;
    q.expand1_channels = p.expand1;
    q.expand3 = w3;
    q.expand3_bias = p.b3;
    q.expand3_channels = expand3;
    return q;
  }
};

}  // namespace

int64_t fire_train_cuda_workspace(const FireTrainParams& p, const Device& device) {
  return element_bytes(p.type) ? Forward(p, device, sizing_address()).pieces.used : 0;
}

Result fire_train_cuda(const FireTrainParams& p, const Device& device, StreamHandle stream) {
  if (element_bytes(p.type) == 0) return {"the CUDA kernels take float16, bfloat16 and float32", 0};
  const Forward f(p, device, p.workspace);
  Sequence all;
  const std::vector<PackJob> weights = {
      {f.squeeze_weight(), f.ws}, {f.expand1_weight(), f.w1}, {f.expand3_weight(), f.w3}};
  all.then([&] { return run_packs(weights, stream); }).then([&] { return fire_cuda(f.fused(), device, stream); });
  if (!all.result.refusal) return all.result;
  all.result = {};
  return all.then([&] { return run_conv(f.first(), p.type, device, f.scratch, stream); })
      .then([&] { return run_conv(f.second(), p.type, device, f.scratch, stream); })
      .then([&] { return run_conv(f.third(), p.type, device, f.scratch, stream); })
      .result;
}

}  // namespace lightops::cuda
