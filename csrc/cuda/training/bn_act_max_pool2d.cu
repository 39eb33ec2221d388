// Max-pool of act(norm(x)). Backward: a pass over the windows finds each maximum again, leaves its place in the window as a byte and
// takes the two sums, which need no other pixel; a pass over x gathers the windows that chose a pixel, two or three of them as a rule.
// So x is read twice and nothing of its size but dx is written.
#include "lightops/training/cuda.h"
#include "plan.h"
#include "training/channel_pass.cuh"
#include "training/norm.h"

namespace lightops::cuda {
namespace {

struct WindowArgs {
  ChannelPass pass;  // of the windows; in gather_kernel of x
  View x, y, dx;  // y: out, or dy
  NormArgs norm;
  int act;
  Geometry window;
  float by_stride_h, by_stride_w;
  unsigned char* places;  // [images][windows][place_pitch]: place of the maximum, ky * kernel_w + kx
  int place_pitch;
  float* sums;  // or null
  const float *slope, *constant;
};

// number / divisor for numbers below 2^20 and by = 1 / divisor: half a step away from the next integer, rounding does not reach it.
constexpr int kQuotientLimit = 1 << 20;
LIGHTOPS_DEVICE int quotient(int number, float by) {
  return static_cast<int>((static_cast<float>(number) + 0.5f) * by);
}

// The places of a chunk of channels, a byte each. Their rows are whole chunks whatever x's are.
template <class Math>
struct alignas(kChunkElements<Math>) Places {
  uint32_t w[kChunkElements<Math> / 4];
};
template <class Math>
LIGHTOPS_DEVICE Places<Math>* places_of(const WindowArgs& a, Pixel p, int channel) {
  const int64_t window = (static_cast<int64_t>(p.image) * a.y.height + p.row) * a.y.width + p.column;
  return reinterpret_cast<Places<Math>*>(a.places + window * a.place_pitch + channel);
}

// body(place, chunk at it) for the pixels of a window that lie inside the map.
template <class Math, class Body>
LIGHTOPS_DEVICE void each_in_window(const WindowArgs& a, Pixel p, int channel, const Body& body) {
  const Geometry& g = a.window;
  const int y0 = p.row * g.stride_h - g.pad_h, x0 = p.column * g.stride_w - g.pad_w;
  for (int ky = 0; ky < g.kernel_h; ++ky) {
    const int y = y0 + ky;
    if (y < 0 || y >= a.x.height) continue;
#pragma unroll 3
    for (int kx = 0; kx < g.kernel_w; ++kx) {
      const int x = x0 + kx;
      if (x < 0 || x >= a.x.width) continue;
      body(ky * g.kernel_w + kx, load_chunk<Math>(a.x, pixel_offset(a.x, p.image, y * a.x.width + x), channel, true));
    }
  }
}

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
                            float best[kElements], from[kElements];
                            int place[kElements];
#pragma unroll
                            for (int e = 0; e < kElements; ++e)
                              best[e] = bits_to_float(0xff800000u), from[e] = 0.f, place[e] = -1;
                            each_in_window<Math>(a, p, c, [&](int at, const Vec16& raw) {
                              float x[kElements], u[kElements];
                              unpack<Math>(raw, x);
                              unpack<Math>(normalised(norm, act, raw), u);
#pragma unroll
                              for (int e = 0; e < kElements; ++e) {
                                const bool better = u[e] > best[e] || u[e] != u[e] || place[e] < 0;
                                best[e] = better ? u[e] : best[e];
                                from[e] = better ? x[e] : from[e];
                                place[e] = better ? at : place[e];
                              }
                            });
                            Places<Math> packed{};
#pragma unroll
                            for (int e = 0; e < kElements; ++e)
                              packed.w[e / 4] |= static_cast<uint32_t>(place[e] & 255) << (e % 4 * 8);
                            store_global(places_of<Math>(a, p, c), packed);
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
  const Geometry& g = a.window;
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
                            // The windows over a pixel are those that start at most kernel - 1 before it.
                            const int y = p.row + g.pad_h, x = p.column + g.pad_w;
                            const int last_y = quotient(y, a.by_stride_h), last_x = quotient(x, a.by_stride_w);
                            for (int oy = last_y; oy >= 0 && y - oy * g.stride_h < g.kernel_h; --oy) {
                              if (oy >= a.y.height) continue;
#pragma unroll 2
                              for (int ox = last_x; ox >= 0 && x - ox * g.stride_w < g.kernel_w; --ox) {
                                if (ox >= a.y.width) continue;
                                const Pixel at{p.image, oy, ox, true};
                                const auto mine =
                                    static_cast<uint32_t>((y - oy * g.stride_h) * g.kernel_w + x - ox * g.stride_w);
                                const Places<Math> chosen = load_global(places_of<Math>(a, at, c));
                                float dy[kElements];
                                unpack<Math>(load_chunk<Math>(a.y, offset_of(a.y, at), c, true), dy);
#pragma unroll
                                for (int e = 0; e < kElements; ++e)
                                  dz[e] += (chosen.w[e / 4] >> (e % 4 * 8) & 255u) == mine ? dy[e] : 0.f;
                              }
                            }
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
  WindowArgs a{};
  const int bytes = element_bytes(p.type);
  a.pass = plan_pass(y, bytes);
  a.x = view_of(p.x, bytes);
  a.y = view_of(y, bytes);
  a.norm = norm_args(p.norm);
  a.act = static_cast<int>(p.act);
  a.window = geometry_of(p.window);
  a.by_stride_h = 1.f / static_cast<float>(a.window.stride_h);
  a.by_stride_w = 1.f / static_cast<float>(a.window.stride_w);
  a.place_pitch = packed_row(p.x.c, bytes);
  return a;
}

const char* window_refusal(const Nhwc& x, const Window& w, DType type) {
  if (const char* refusal = pass_refusal(x, type)) return refusal;
  if (x.h >= kQuotientLimit || x.w >= kQuotientLimit) return "a map of 2^20 rows or columns";
  if (w.kernel[0] * w.kernel[1] > 255) return "a window of more than 255 pixels";
  return nullptr;
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
  a.places = b.places;
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
