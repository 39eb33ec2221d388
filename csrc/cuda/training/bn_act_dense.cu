// Dense convolutions of training, composed of the shared kernels: the implicit GEMM with batch norm and activation in its loader, the
// weight gradient with the same, the input gradient and the backward pass of the norm.
#include "training/bn_act_dense.h"

#include <algorithm>

#include "training/channel_pass.h"
#include "training/channel_sum.h"
#include "training/conv_stats.h"
#include "training/input_gradient.h"
#include "training/norm.h"
#include "training/pack.h"
#include "training/wgrad.h"

namespace lightops::cuda {
namespace {

// Fewer channels than this and a window: the reduction runs over (tap, channel), so that no lanes are wasted on padding.
constexpr int64_t kGatheredBelow = 16;

template <class Params>
TrainWeight weight_of(const Params& p) {
  return dense_weight(const_cast<void*>(p.weight), p.x.c, p.window);
}

// Pieces of the workspace, from its start: known without the device's data, so that the size and the call agree.
struct Forward {
  PackProblem pack;
  ConvProblem conv;
  void* packed;
  float *scale = nullptr, *shift = nullptr, *bias = nullptr;
  void* rest;  // of the convolution, then of the statistics
  int64_t workspace;
};

Forward plan_forward(const BnActConv2dParams& p, const Device& device) {
  Forward f;
  ConvProblem& c = f.conv;
  c.x = p.x;
  c.out = p.y;
  c.element_bytes = element_bytes(p.type);
  c.window = p.window;
  c.average_pool = p.pool;
  const bool window = p.window.kernel[0] * p.window.kernel[1] > 1, plain = p.norm.mean == nullptr && p.act == Act::none;
  c.gathered = plain && window && !p.pool && p.x.c < kGatheredBelow;
  if (c.gathered && plan_conv(c, device).refusal) c.gathered = false;
  f.pack.weight = weight_of(p);
  f.pack.out = p.y.c;
  f.pack.in = p.x.c;
  f.pack.kernel[0] = p.window.kernel[0], f.pack.kernel[1] = p.window.kernel[1];
  f.pack.type = p.type;
  f.pack.packing = c.gathered ? Packing::gathered : Packing::forward;
  Pieces pieces(p.workspace);
  c.weight = f.packed = pieces.take<unsigned char>(packed_bytes(f.pack));
  if (p.norm.mean) {
    c.scale = f.scale = pieces.take<float>(p.x.c);
    c.shift = f.shift = pieces.take<float>(p.x.c);
  }
  c.pre_act = p.act;
  if (p.bias) c.bias = f.bias = pieces.take<float>(p.y.c);
  f.rest = pieces.take<unsigned char>(p.mean ? conv_stats_workspace(c, p.type, device) : conv_workspace(c, device));
  f.workspace = pieces.used;
  return f;
}

struct Backward {
  WgradProblem wgrad;
  InputGradient input;
  float *scale = nullptr, *shift = nullptr;
  bool wants_input;
  void* rest;
  int64_t workspace;
};

Backward plan_backward(const BnActConv2dBackwardParams& p, const Device& device) {
  Backward b;
  const int bytes = element_bytes(p.type);
  b.wants_input = p.dx.data || (p.norm.mean && (p.dgamma || p.dbeta));
  Pieces pieces(p.workspace);
  if (p.norm.mean && p.dweight) {
    b.scale = pieces.take<float>(p.x.c);
    b.shift = pieces.take<float>(p.x.c);
  }
  int64_t rest = 0;
  if (p.dweight) {
    WgradProblem& w = b.wgrad;
    w.x = p.x;
    w.dy = p.dy;
    w.type = p.type;
    w.scale = b.scale;
    w.shift = b.shift;
    w.pre_act = p.act;
    w.average_pool = p.pool;
    w.window = p.window;
    w.dweight = dense_weight(p.dweight, p.x.c, p.window);
    w.dbias = p.dbias;
    rest = std::max(rest, wgrad_workspace(w, device));
  } else if (p.dbias) {
    rest = std::max(rest, channel_sum_workspace(p.dy, p.type));
  }
  if (b.wants_input) {
    // du lies where dx will, unless it is of another size; pixels of what nobody else sees are whole 16-byte chunks apart.
    const int64_t pixel = packed_row(p.x.c, bytes), h = p.pool ? p.dy.h : p.x.h, w = p.pool ? p.dy.w : p.x.w;
    Nhwc du{nullptr, p.x.n, h, w, p.x.c, pixel, h * w * pixel};
    b.input.dy = p.dy;
    b.input.dx = p.pool || !p.dx.data ? du : p.dx;
    b.input.type = p.type;
    b.input.weight = weight_of(p);
    b.input.window = p.window;
    b.input.through_norm = p.norm.mean || p.act != Act::none || p.pool;
    b.input.norm = norm_gradient(b.input.dx, p.x, p.dx, p.type, p.norm, p.act, static_cast<float*>(p.dgamma),
                                 static_cast<float*>(p.dbeta));
    b.input.norm.pooled = p.pool;
    b.input.norm.gain = p.pool ? 0.25f : 1.f;
    if (!b.input.dx.data && stores_input_gradient(b.input, device)) {
      du.data = pieces.take<unsigned char>(p.x.n * du.image * bytes);
      b.input.dx = b.input.norm.du = du;
    }
    rest = std::max(rest, input_gradient_workspace(b.input, device));
  }
  b.rest = pieces.take<unsigned char>(rest);
  b.workspace = pieces.used;
  return b;
}

}  // namespace

int64_t bn_act_dense_cuda_workspace(const BnActConv2dParams& p, const Device& device) {
  return element_bytes(p.type) ? plan_forward(p, device).workspace : 0;
}

Result bn_act_dense_cuda(const BnActConv2dParams& p, const Device& device, StreamHandle stream) {
  if (element_bytes(p.type) == 0) return {"the CUDA kernels take float16, bfloat16 and float32", 0};
  const Forward f = plan_forward(p, device);
  if (const char* refusal = plan_conv(f.conv, device).refusal) return {refusal, 0};
  Result result = run_packs({{f.pack, f.packed}}, stream);
  if (result.ok() && f.scale) result = run_affine(p.norm, p.x.c, f.scale, f.shift, stream);
  if (result.ok() && f.bias) result = run_widen(p.bias, p.type, p.y.c, f.bias, stream);
  if (!result.ok()) return result;
  if (!p.mean) return run_conv(f.conv, p.type, device, f.rest, stream);
  return run_conv_stats(f.conv, p.type, static_cast<float*>(p.mean), static_cast<float*>(p.var), f.rest, device,
                        stream);
}

int64_t bn_act_dense_backward_cuda_workspace(const BnActConv2dBackwardParams& p, const Device& device) {
  return element_bytes(p.type) ? plan_backward(p, device).workspace : 0;
}

Result bn_act_dense_backward_cuda(const BnActConv2dBackwardParams& p, const Device& device, StreamHandle stream) {
  if (element_bytes(p.type) == 0) return {"the CUDA kernels take float16, bfloat16 and float32", 0};
  const Backward b = plan_backward(p, device);
  Result result;
  if (b.scale) result = run_affine(p.norm, p.x.c, b.scale, b.shift, stream);
  if (result.ok() && p.dweight) result = run_wgrad(b.wgrad, b.rest, device, stream);
  else if (result.ok() && p.dbias) result = run_channel_sum(p.dy, p.type, p.dbias, b.rest, stream);
  return result.ok() && b.wants_input ? run_input_gradient(b.input, b.rest, device, stream) : result;
}

}  // namespace lightops::cuda
