// The first layer without a batch norm. Forward: the implicit GEMM of the inference stem, which pools its tile where it lies and leaves
// the places of the maxima beside the outputs; where no tile holds a pool window, the convolution's map goes through the workspace.
// Backward: a pass over the convolution's map gathers its gradient from the windows that chose a pixel, two or three of them as a rule,
// and takes the bias's sums; the weight gradient and the input gradient are those of any convolution.
#include <algorithm>

#include "lightops/training/cuda.h"
#include "training/channel_sum.h"
#include "training/input_gradient.h"
#include "training/layer.h"
#include "training/wgrad_plan.h"
#include "training/windows.cuh"

namespace lightops::cuda {
namespace {

// Fewer channels than this: the reduction runs over (tap, channel), as in bn_act_dense.cu.
constexpr int64_t kGatheredBelow = 16;

struct StemArgs : Windows {
  ChannelPass pass;  // of the windows; in unpool_kernel of the map
  View out;  // backward: the mask, null data: none
  View to;  // backward: where the map's gradient goes, null data: nowhere
  float* sums;  // backward: of every part [channels], or null
};

// Grid: x = group of columns, y = part of the windows.
template <class Math>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kPassThreads, 2) place_kernel(LIGHTOPS_PARAMS(StemArgs) a) {
  const PassThread<Math> thread(a.pass, a.x.channels, block_y());
  const int c = thread.channel;
  thread.template each<1>([](int, Pixel) {},
                          [&](int, Pixel p) {
                            FirstMaximum<Math> most;
                            each_in_window<Math>(a, p, c, [&](int at, const Vec16& raw) {
                              float v[kChunkElements<Math>];
                              unpack<Math>(raw, v);
#pragma unroll
                              for (int e = 0; e < kChunkElements<Math>; ++e) most.take(e, v[e], at);
                            });
                            store_chunk<Math>(a.y, offset_of(a.y, p), c, pack<Math>(most.best), true);
                            store_places<Math>(a.places, window_number(a, p), c, a.x.channels, most.places());
                          });
}

// Grid: x = group of columns, y = part of the map's pixels.
template <class Math>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kPassThreads, 2) unpool_kernel(LIGHTOPS_PARAMS(StemArgs) a) {
  constexpr int kElements = kChunkElements<Math>;
  const PassThread<Math> thread(a.pass, a.x.channels, block_y());
  const int c = thread.channel;
  float sums[1][kElements] = {};
  thread.template each<1>([](int, Pixel) {},
                          [&](int, Pixel p) {
                            float dy[kElements] = {};
                            gather_windows<Math>(a, p, c, dy, [&](Pixel at, float (&d)[kElements]) {
                              unpack<Math>(load_chunk<Math>(a.y, offset_of(a.y, at), c, true), d);
                              if (!a.out.data) return;
                              float out[kElements];
                              unpack<Math>(load_chunk<Math>(a.out, offset_of(a.out, at), c, true), out);
#pragma unroll
                              for (int e = 0; e < kElements; ++e) d[e] = out[e] <= 0.f ? 0.f : d[e];
                            });
#pragma unroll
                            for (int e = 0; e < kElements; ++e) sums[0][e] += dy[e];
                            if (a.to.data) store_chunk<Math>(a.to, offset_of(a.to, p), c, pack<Math>(dy), true);
                          });
  if (!a.sums) return;
  const int first = block_x() * a.pass.columns * kElements;
  sum_lanes(a.pass, sums, [&](int channel, const float (&total)[1]) {
    const int at = first + channel;
    store_global(a.sums + static_cast<int64_t>(thread.part) * a.x.channels + at, total[0], at < a.x.channels);
  });
}

template <class Math>
int launch_place(const StemArgs& a, Stream stream) {
  return launch<place_kernel<Math>>(static_cast<unsigned>(a.pass.groups), static_cast<unsigned>(a.pass.parts), 1,
                                    kPassThreads, 0, stream, a);
}
template <class Math>
int launch_unpool(const StemArgs& a, Stream stream) {
  return launch<unpool_kernel<Math>>(static_cast<unsigned>(a.pass.groups), static_cast<unsigned>(a.pass.parts), 1,
                                     kPassThreads, kSumBytes<kChunkElements<Math>, 1>, stream, a);
}

StemArgs stem_args(const Nhwc& map, const Nhwc& windows, const Window& pool, unsigned char* places, int bytes) {
  StemArgs a{};
  static_cast<Windows&>(a) = windows_of(view_of(map, bytes), view_of(windows, bytes), pool);
  a.places = place_map(places, map.c, bytes);
  return a;
}

// The convolution's map, in pixels of whole 16-byte chunks; where it lies is not known yet.
template <class Params>
Nhwc map_of(const Params& p) {
  Nhwc size = p.x;
  size.h = p.window.out(0, p.x.h);
  size.w = p.window.out(1, p.x.w);
  return map_like(size, nullptr, p.out.c, packed_row(p.out.c, element_bytes(p.type)));
}

TrainWeight weight_of(const void* data, int64_t in, const Window& window) {
  return dense_weight(const_cast<void*>(data), in, window);
}

struct Forward {
  const StemTrainParams& p;
  const Device& device;
  Pieces pieces;
  ConvProblem conv;
  PackProblem weight;
  void* packed;
  float* bias = nullptr;
  Nhwc map;  // null data: nothing but the pool's outputs is stored
  unsigned char* scratch;

  Forward(const StemTrainParams& params, const Device& d) : p(params), device(d), pieces(p.workspace) {
    const int bytes = element_bytes(p.type);
    conv = convolution(p.x, p.out, bytes, p.window, nullptr);
    conv.act = p.act;
    conv.gathered = conv.pooled = true;
    conv.pool = p.pool;
    conv.places = p.places;
    const bool fused = plan_conv(conv, device).refusal == nullptr;
    if (!fused) {
      map = map_of(p);
      conv.out = map;
      conv.pooled = false;
      conv.places = nullptr;
      conv.gathered = p.x.c < kGatheredBelow && plan_conv(conv, device).refusal == nullptr;
    }
    weight = packing(weight_of(p.weight, p.x.c, p.window), p.out.c, p.x.c, p.window, p.type,
                     conv.gathered ? Packing::gathered : Packing::forward);
    conv.weight = packed = pieces.take<unsigned char>(packed_bytes(weight));
    if (p.bias) conv.bias = bias = pieces.take<float>(p.out.c);
    if (!fused) conv.out.data = map.data = pieces.take<unsigned char>(map.n * map.image * bytes);
    scratch = pieces.take<unsigned char>(conv_workspace(conv, device));
  }
  Result pool(StreamHandle handle) const {
    const int bytes = element_bytes(p.type);
    StemArgs a = stem_args(map, p.out, p.pool, p.places, bytes);
    a.pass = plan_pass(p.out, bytes);
    const auto stream = static_cast<Stream>(handle);
    return {nullptr, p.type == DType::f16    ? launch_place<F16>(a, stream)
                     : p.type == DType::bf16 ? launch_place<BF16>(a, stream)
                                             : launch_place<F32>(a, stream)};
  }
};

struct Backward {
  const StemTrainBackwardParams& p;
  const Device& device;
  Pieces pieces;
  Nhwc map;  // dy
  float* sums = nullptr;
  unsigned char* scratch;

  Backward(const StemTrainBackwardParams& params, const Device& d) : p(params), device(d), pieces(p.workspace) {
    const int bytes = element_bytes(p.type);
    map = map_of(p);
    const bool stored = p.dweight || p.dx.data;
    if (stored) map.data = pieces.take<unsigned char>(map.n * map.image * bytes);
    if (p.dbias) sums = pieces.take<float>(static_cast<int64_t>(plan_pass(map, bytes).parts) * map.c);
    int64_t most = 0;
    if (p.dweight) most = std::max(most, wgrad_workspace(wgrad(), device));
    if (p.dx.data) most = std::max(most, input_gradient_workspace(input(), device));
    scratch = pieces.take<unsigned char>(most);
  }
  WgradProblem wgrad() const {
    WgradProblem w;
    w.x = p.x;
    w.dy = map;
    w.type = p.type;
    w.window = p.window;
    w.dweight = dense_weight(p.dweight, p.x.c, p.window);
    return w;
  }
  InputGradient input() const {
    InputGradient g;
    g.dy = map;
    g.dx = p.dx;
    g.type = p.type;
    g.weight = weight_of(p.weight, p.x.c, p.window);
    g.window = p.window;
    return g;
  }
  Result unpool(StreamHandle handle) const {
    const int bytes = element_bytes(p.type);
    StemArgs a = stem_args(map, p.dout, p.pool, const_cast<unsigned char*>(p.places), bytes);
    a.pass = plan_pass(map, bytes);
    if (p.act != Act::none) a.out = view_of(p.out, bytes);
    a.to = a.x;
    a.sums = sums;
    const auto stream = static_cast<Stream>(handle);
    const int error = p.type == DType::f16    ? launch_unpool<F16>(a, stream)
                      : p.type == DType::bf16 ? launch_unpool<BF16>(a, stream)
                                              : launch_unpool<F32>(a, stream);
    if (error || !p.dbias) return {nullptr, error};
    return run_merge_channel_sums(sums, a.pass.parts, a.x.channels, p.type, p.dbias, handle);
  }
};

}  // namespace

int64_t stem_train_cuda_workspace(const StemTrainParams& p, const Device& device) {
  return element_bytes(p.type) ? Forward(p, device).pieces.used : 0;
}

Result stem_train_cuda(const StemTrainParams& p, const Device& device, StreamHandle stream) {
  if (element_bytes(p.type) == 0) return {"the CUDA kernels take float16, bfloat16 and float32", 0};
  const Forward f(p, device);
  const char* refusal = plan_conv(f.conv, device).refusal;
  if (!refusal && f.map.data) refusal = window_refusal(f.map, p.pool, p.type);
  if (refusal) return {refusal, 0};
  Sequence all;
  all.then([&] { return run_packs({{f.weight, f.packed}}, stream); });
  if (f.bias) all.then([&] { return run_widen(p.bias, p.type, p.out.c, f.bias, stream); });
  all.then([&] { return run_conv(f.conv, p.type, device, f.scratch, stream); });
  if (f.map.data) all.then([&] { return f.pool(stream); });
  return all.result;
}

int64_t stem_train_backward_cuda_workspace(const StemTrainBackwardParams& p, const Device& device) {
  return element_bytes(p.type) ? Backward(p, device).pieces.used : 0;
}

Result stem_train_backward_cuda(const StemTrainBackwardParams& p, const Device& device, StreamHandle stream) {
  if (element_bytes(p.type) == 0) return {"the CUDA kernels take float16, bfloat16 and float32", 0};
  const Backward b(p, device);
  const char* refusal = window_refusal(b.map, p.pool, p.type);
  if (!refusal && p.dweight) refusal = plan_wgrad(b.wgrad(), device).refusal;
  if (refusal) return {refusal, 0};
  Sequence all;
  all.then([&] { return b.unpool(stream); });
  if (p.dweight) all.then([&] { return run_wgrad(b.wgrad(), b.scratch, device, stream); });
  if (p.dx.data) all.then([&] { return run_input_gradient(b.input(), b.scratch, device, stream); });
  return all.result;
}

}  // namespace lightops::cuda
