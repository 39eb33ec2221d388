// Max-pool of act(norm(x)). Backward: a pass over the windows finds each maximum again, leaves its place in the window as a byte and
// takes the two sums, which need no other pixel; a pass over x gathers the windows that chose a pixel, two or three of them as a rule.
// So x is read twice and nothing of its size but dx is written.
#include "lightops/training/cuda.h"
#include "training/norm.h"
#include "training/windows.cuh"

namespace lightops::cuda {
namespace {

struct WindowArgs : Windows {
  ChannelPass pass;  // of the windows; in gather_kernel of x
  View dx;
  NormArgs norm;
  int act;
  float* sums;  // or null
  const float *slope, *constant;
};

// u of a chunk, rounded as if it had been stored.
template <class Math>
LIGHTOPS_DEVICE Vec16 normalised(const ThreadNorm<kChunkElements<Math>>& norm, const Activation<Math>& act,
                                 const Vec16& raw) {
  float v[kChunkElements<Math>];
  unpack<Math>(raw, v);
  norm.apply(v);
  Vec16 u;
  act.pack(v, u);
  return u;
}

// Grid: x = group of columns, y = part of the windows.
template <class Math>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kPassThreads, 3) pool_kernel(LIGHTOPS_PARAMS(WindowArgs) a) {
  const PassThread<Math> thread(a.pass, a.x.channels, block_y());
  const ThreadNorm<kChunkElements<Math>> norm(a.norm, thread.channel, a.x.channels, thread.on);
  const Activation<Math> act(a.act);
  thread.template each<1>([](int, Pixel) {},
                          [&](int, Pixel p) {
                            Vec16 best{};
                            bool any = false;
                            each_in_window<Math>(a, p, thread.channel, [&](int, const Vec16& raw) {
                              const Vec16 u = normalised(norm, act, raw);
#pragma unroll
                              for (int i = 0; i < 4; ++i) best.w[i] = any ? Math::max_word(best.w[i], u.w[i]) : u.w[i];
                              any = true;
                            });
                            store_chunk<Math>(a.y, offset_of(a.y, p), thread.channel, best, true);
                          });
}

// The first maximum in row order; a NaN before any number, the last of them, as torch.
template <class Math>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kPassThreads, 2) find_kernel(LIGHTOPS_PARAMS(WindowArgs) a) {
  constexpr int kElements = kChunkElements<Math>;
  const PassThread<Math> thread(a.pass, a.x.channels, block_y());
  const int c = thread.channel;
  const ThreadNorm<kElements> norm(a.norm, c, a.x.channels, thread.on);
  const Activation<Math> act(a.act);
  const Slope through(a.act);
  float mean[kElements], sums[2][kElements] = {};
  load_vector(mean, a.norm.mean, c, a.x.channels, thread.on);
  thread.template each<1>([](int, Pixel) {},
                          [&](int, Pixel p) {
                            FirstMaximum<Math> most;
                            float from[kElements] = {};
                            each_in_window<Math>(a, p, c, [&](int at, const Vec16& raw) {
                              float x[kElements], u[kElements];
                              unpack<Math>(raw, x);
                              unpack<Math>(normalised(norm, act, raw), u);
#pragma unroll
                              for (int e = 0; e < kElements; ++e) from[e] = most.take(e, u[e], at) ? x[e] : from[e];
                            });
                            store_places<Math>(a.places, window_number(a, p), c, a.x.channels, most.places());
                            if (!a.sums) return;
                            float dz[kElements], z[kElements];
                            unpack<Math>(load_chunk<Math>(a.y, offset_of(a.y, p), c, true), dz);
#pragma unroll
                            for (int e = 0; e < kElements; ++e) z[e] = norm(e, from[e]);
                            through.apply(dz, z);
#pragma unroll
                            for (int e = 0; e < kElements; ++e) {
                              sums[0][e] += dz[e];
                              sums[1][e] = multiply_add(dz[e], from[e] - mean[e], sums[1][e]);
                            }
                          });
  if (!a.sums) return;
  const int first = block_x() * a.pass.columns * kElements;
  sum_lanes(a.pass, sums, [&](int channel, const float (&total)[2]) {
    float* const out = a.sums + static_cast<int64_t>(thread.part) * 2 * a.x.channels + first + channel;
    store_global(out, total[0], first + channel < a.x.channels);
    store_global(out + a.x.channels, total[1], first + channel < a.x.channels);
  });
}

// dx. Grid: x = group of columns, y = part of x's pixels.
template <class Math>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kPassThreads, 2) gather_kernel(LIGHTOPS_PARAMS(WindowArgs) a) {
  constexpr int kElements = kChunkElements<Math>;
  const PassThread<Math> thread(a.pass, a.x.channels, block_y());
  const int c = thread.channel;
  const ThreadNorm<kElements> norm(a.norm, c, a.x.channels, thread.on);
  const Slope through(a.act);
  float mean[kElements], slope[kElements], constant[kElements];
  load_vector(mean, a.norm.mean, c, a.x.channels, thread.on);
  load_vector(slope, a.slope, c, a.x.channels, thread.on);
  load_vector(constant, a.constant, c, a.x.channels, thread.on);
  thread.template each<1>([](int, Pixel) {},
                          [&](int, Pixel p) {
                            const Vec16 raw = load_chunk<Math>(a.x, offset_of(a.x, p), c, true);
                            float dz[kElements] = {};
                            gather_windows<Math>(a, p, c, dz, [&](Pixel at, float (&dy)[kElements]) {
                              unpack<Math>(load_chunk<Math>(a.y, offset_of(a.y, at), c, true), dy);
                            });
                            float v[kElements], z[kElements];
                            unpack<Math>(raw, v);
#pragma unroll
                            for (int e = 0; e < kElements; ++e) z[e] = norm(e, v[e]);
                            through.apply(dz, z);
#pragma unroll
                            for (int e = 0; e < kElements; ++e)
                              dz[e] = combine(dz[e] * norm.scale[e], v[e] - mean[e], slope[e], constant[e], a.slope);
                            store_chunk<Math>(a.dx, offset_of(a.dx, p), c, pack<Math>(dz), true);
                          });
}

using Kernel = int (*)(const WindowArgs&, Stream);
template <class Math>
int launch_pool(const WindowArgs& a, Stream stream) {
  return launch<pool_kernel<Math>>(a.pass.groups, a.pass.parts, 1, kPassThreads, 0, stream, a);
}
template <class Math>
int launch_find(const WindowArgs& a, Stream stream) {
  return launch<find_kernel<Math>>(a.pass.groups, a.pass.parts, 1, kPassThreads, kSumBytes<kChunkElements<Math>, 2>,
                                   stream, a);
}
template <class Math>
int launch_gather(const WindowArgs& a, Stream stream) {
  return launch<gather_kernel<Math>>(a.pass.groups, a.pass.parts, 1, kPassThreads, 0, stream, a);
}

template <class Params>
WindowArgs window_args(const Params& p, const Nhwc& y) {
  const int bytes = element_bytes(p.type);
  WindowArgs a{};
  static_cast<Windows&>(a) = windows_of(view_of(p.x, bytes), view_of(y, bytes), p.window);
  a.pass = plan_pass(y, bytes);
  a.norm = norm_args(p.norm);
  a.act = static_cast<int>(p.act);
  return a;
}

struct BackwardPieces {
  unsigned char* places;
  float *sums, *slope, *constant;
  int64_t used;
};
BackwardPieces pieces_of(const BnActMaxPool2dBackwardParams& p) {
  Pieces pieces(p.workspace);
  BackwardPieces b{};
  const int bytes = element_bytes(p.type);
  b.places = pieces.take<unsigned char>(p.dy.n * p.dy.h * p.dy.w * packed_row(p.x.c, bytes));
  if (p.norm.mean) b.sums = pieces.take<float>(static_cast<int64_t>(plan_pass(p.dy, bytes).parts) * 2 * p.x.c);
  if (p.norm.mean && p.norm.batch) {
    b.slope = pieces.take<float>(p.x.c);
    b.constant = pieces.take<float>(p.x.c);
  }
  b.used = pieces.used;
  return b;
}

}  // namespace

int64_t bn_act_max_pool2d_cuda_workspace(const BnActMaxPool2dParams&, const Device&) { return 0; }

Result bn_act_max_pool2d_cuda(const BnActMaxPool2dParams& p, const Device&, StreamHandle stream) {
  if (const char* refusal = window_refusal(p.x, p.window, p.type)) return {refusal, 0};
  const Kernel pool = p.type == DType::f16    ? launch_pool<F16>
                      : p.type == DType::bf16 ? launch_pool<BF16>
                                              : launch_pool<F32>;
  return {nullptr, pool(window_args(p, p.out), static_cast<Stream>(stream))};
}

int64_t bn_act_max_pool2d_backward_cuda_workspace(const BnActMaxPool2dBackwardParams& p, const Device&) {
  return window_refusal(p.x, p.window, p.type) ? 0 : pieces_of(p).used;
}

Result bn_act_max_pool2d_backward_cuda(const BnActMaxPool2dBackwardParams& p, const Device&, StreamHandle stream) {
  if (const char* refusal = window_refusal(p.x, p.window, p.type)) return {refusal, 0};
  const Kernel find = p.type == DType::f16    ? launch_find<F16>
                      : p.type == DType::bf16 ? launch_find<BF16>
                                              : launch_find<F32>;
  const Kernel gather = p.type == DType::f16    ? launch_gather<F16>
                        : p.type == DType::bf16 ? launch_gather<BF16>
                                                : launch_gather<F32>;
  const BackwardPieces b = pieces_of(p);
  WindowArgs a = window_args(p, p.dy);
  a.dx = view_of(p.dx, element_bytes(p.type));
  a.places = {b.places, packed_row(p.x.c, element_bytes(p.type)), true};
  a.sums = b.sums;
  if (const int error = find(a, static_cast<Stream>(stream))) return {nullptr, error};
  if (p.norm.mean) {
    const Result merged =
        run_merge_sums({b.sums, a.pass.parts, a.x.channels, p.x.n * p.x.h * p.x.w}, p.norm,
                       static_cast<float*>(p.dgamma), static_cast<float*>(p.dbeta), b.slope, b.constant, false, stream);
    if (!merged.ok()) return merged;
  }
  a.slope = b.slope;
  a.constant = b.constant;
  a.pass = plan_pass(p.x, element_bytes(p.type));
  return {nullptr, gather(a, static_cast<Stream>(stream))};
}

}  // namespace lightops::cuda
