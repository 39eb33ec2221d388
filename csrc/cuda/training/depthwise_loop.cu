#include "training/depthwise_loop.h"

#include "training/channel_pass.cuh"

namespace lightops::cuda {
namespace {

template <class Math>
struct LoopThread : PassThread<Math> {
  static constexpr int kElements = kChunkElements<Math>;
  const DepthwiseLoopArgs& a;
  ThreadNorm<kElements> norm;
  Activation<Math> act;
  int taps;

  LIGHTOPS_DEVICE explicit LoopThread(const DepthwiseLoopArgs& args)
      : PassThread<Math>(args.pass, args.of.x.channels, block_y()),
        a(args),
        norm(args.of.norm, this->channel, args.of.x.channels, this->on),
        act(args.of.act),
        taps(args.window.kernel_h * args.window.kernel_w) {}

  // Stored as [C][taps].
  LIGHTOPS_DEVICE float weight(int tap, int e) const {
    const int c = this->channel + e;
    const auto* const from = reinterpret_cast<const typename Math::Store*>(a.of.weight);
    return Math::load(load_global(from + static_cast<int64_t>(c) * taps + tap, c < a.of.x.channels));
  }
  // u of a chunk at a pixel of x.
  LIGHTOPS_DEVICE void load_u(float (&u)[kElements], int image, int y, int x) const {
    unpack<Math>(load_chunk<Math>(a.of.x, pixel_offset(a.of.x, image, y * a.of.x.width + x), this->channel, true), u);
    norm.apply(u);
    act.apply(u);
  }
  LIGHTOPS_DEVICE bool inside(int y, int x) const { return y >= 0 && y < a.of.x.height && x >= 0 && x < a.of.x.width; }
};

// Grid: x = group of columns, y = part of y's pixels.
template <class Math>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kPassThreads, 2) loop_kernel(LIGHTOPS_PARAMS(DepthwiseLoopArgs) a) {
  constexpr int kElements = kChunkElements<Math>;
  const LoopThread<Math> thread(a);
  const Geometry& g = a.window;
  const auto* const biases = reinterpret_cast<const typename Math::Store*>(a.of.bias);
  Moments<kElements> moments;
  thread.template each<1>(
      [](int, Pixel) {},
      [&](int, Pixel p) {
        float v[kElements];
#pragma unroll
        for (int e = 0; e < kElements; ++e)
          v[e] =
              biases ? Math::load(load_global(biases + thread.channel + e, thread.channel + e < a.of.x.channels)) : 0.f;
        for (int ky = 0; ky < g.kernel_h; ++ky)
          for (int kx = 0; kx < g.kernel_w; ++kx) {
            const int y = p.row * g.stride_h - g.pad_h + ky * g.dilation_h,
                      x = p.column * g.stride_w - g.pad_w + kx * g.dilation_w;
            if (!thread.inside(y, x)) continue;
            float u[kElements];
            thread.load_u(u, p.image, y, x);
#pragma unroll
            for (int e = 0; e < kElements; ++e) v[e] = multiply_add(u[e], thread.weight(ky * g.kernel_w + kx, e), v[e]);
          }
        const Vec16 raw = pack<Math>(v);
        store_chunk<Math>(a.of.y, offset_of(a.of.y, p), thread.channel, raw, true);
        unpack<Math>(raw, v);
        moments.add(v);
      });
  if (!a.of.moments) return;
  const int first = block_x() * a.pass.columns * kElements;
  merge_lanes(a.pass, moments, [&](int channel, float mean, float deviation, float count) {
    const int c = first + channel;
    float* const out = a.of.moments + static_cast<int64_t>(block_y()) * 2 * a.of.x.channels + c;
    store_global(out, mean, c < a.of.x.channels);
    store_global(out + a.of.x.channels, deviation, c < a.of.x.channels);
    store_global(a.of.counts + block_y(), count, c == 0);
  });
}

// Grid: x = group of columns, y = part of x's pixels.
template <class Math, bool kSums>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kPassThreads, 2) loop_gradient_kernel(LIGHTOPS_PARAMS(DepthwiseLoopArgs) a) {
  constexpr int kElements = kChunkElements<Math>;
  const LoopThread<Math> thread(a);
  const Geometry& g = a.window;
  const Slope through(a.of.act);
  float mean[kElements], slope[kElements], constant[kElements], sums[2][kElements] = {};
  load_vector(mean, a.of.norm.mean, thread.channel, a.of.x.channels, thread.on);
  load_vector(slope, kSums ? nullptr : a.of.slope, thread.channel, a.of.x.channels, thread.on);
  load_vector(constant, kSums ? nullptr : a.of.constant, thread.channel, a.of.x.channels, thread.on);
  thread.template each<1>(
      [](int, Pixel) {},
      [&](int, Pixel p) {
        float x[kElements], z[kElements], dz[kElements] = {};
        unpack<Math>(load_chunk<Math>(a.of.x, offset_of(a.of.x, p), thread.channel, true), x);
        for (int ky = 0; ky < g.kernel_h; ++ky)
          for (int kx = 0; kx < g.kernel_w; ++kx) {
            const int y = p.row + g.pad_h - ky * g.dilation_h, at = p.column + g.pad_w - kx * g.dilation_w;
            if (y < 0 || at < 0 || y % g.stride_h || at % g.stride_w) continue;
            const int oy = y / g.stride_h, ox = at / g.stride_w;
            if (oy >= a.of.y.height || ox >= a.of.y.width) continue;
            float dy[kElements];
            unpack<Math>(
                load_chunk<Math>(a.of.y, pixel_offset(a.of.y, p.image, oy * a.of.y.width + ox), thread.channel, true),
                dy);
#pragma unroll
            for (int e = 0; e < kElements; ++e)
              dz[e] = multiply_add(dy[e], thread.weight(ky * g.kernel_w + kx, e), dz[e]);
          }
#pragma unroll
        for (int e = 0; e < kElements; ++e) z[e] = thread.norm(e, x[e]);
        through.apply(dz, z);
#pragma unroll
        for (int e = 0; e < kElements; ++e) {
          const float off = x[e] - mean[e];
          if constexpr (kSums) {
            sums[0][e] += dz[e];
            sums[1][e] = multiply_add(dz[e], off, sums[1][e]);
          } else {
            dz[e] = combine(dz[e] * thread.norm.scale[e], off, slope[e], constant[e], a.of.slope);
          }
        }
        if constexpr (!kSums) store_chunk<Math>(a.of.dx, offset_of(a.of.dx, p), thread.channel, pack<Math>(dz), true);
      });
  if constexpr (kSums) {
    const int first = block_x() * a.pass.columns * kElements;
    sum_lanes(a.pass, sums, [&](int channel, const float (&total)[2]) {
      const int c = first + channel;
      float* const out = a.of.sums + static_cast<int64_t>(block_y()) * 2 * a.of.x.channels + c;
      store_global(out, total[0], c < a.of.x.channels);
      store_global(out + a.of.x.channels, total[1], c < a.of.x.channels);
    });
  }
}

// Grid: x = group of columns, y = part of y's pixels, z = tap; the one past the last is the bias.
template <class Math>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kPassThreads, 2) loop_weights_kernel(LIGHTOPS_PARAMS(DepthwiseLoopArgs) a) {
  constexpr int kElements = kChunkElements<Math>;
  const LoopThread<Math> thread(a);
  const Geometry& g = a.window;
  const int tap = block_z(), ky = tap / g.kernel_w, kx = tap - ky * g.kernel_w;
  const bool bias = tap == thread.taps;
  float sums[1][kElements] = {};
  thread.template each<1>([](int, Pixel) {},
                          [&](int, Pixel p) {
                            const int y = p.row * g.stride_h - g.pad_h + ky * g.dilation_h,
                                      x = p.column * g.stride_w - g.pad_w + kx * g.dilation_w;
                            if (!bias && !thread.inside(y, x)) return;
                            float dy[kElements], u[kElements];
                            unpack<Math>(load_chunk<Math>(a.of.y, offset_of(a.of.y, p), thread.channel, true), dy);
                            if (bias) {
#pragma unroll
                              for (int e = 0; e < kElements; ++e) u[e] = 1.f;
                            } else {
                              thread.load_u(u, p.image, y, x);
                            }
#pragma unroll
                            for (int e = 0; e < kElements; ++e) sums[0][e] = multiply_add(dy[e], u[e], sums[0][e]);
                          });
  const int first = block_x() * a.pass.columns * kElements;
  sum_lanes(a.pass, sums, [&](int channel, const float (&total)[1]) {
    const int c = first + channel;
    const int64_t row = static_cast<int64_t>(block_y()) * (thread.taps + 1) + tap;
    store_global(a.of.weights + row * a.of.x.channels + c, total[0], c < a.of.x.channels);
  });
}

template <class Math>
int forward(const DepthwiseLoopArgs& a, Stream stream) {
  return launch<loop_kernel<Math>>(a.pass.groups, a.pass.parts, 1, kPassThreads, kMomentBytes<kChunkElements<Math>>,
                                   stream, a);
}
template <class Math>
int gradient(const DepthwiseLoopArgs& a, bool sums, Stream stream) {
  if (sums)
    return launch<loop_gradient_kernel<Math, true>>(a.pass.groups, a.pass.parts, 1, kPassThreads,
                                                    kSumBytes<kChunkElements<Math>, 2>, stream, a);
  return launch<loop_gradient_kernel<Math, false>>(a.pass.groups, a.pass.parts, 1, kPassThreads, 0, stream, a);
}
template <class Math>
int weights(const DepthwiseLoopArgs& a, Stream stream) {
  const auto taps = static_cast<unsigned>(a.window.kernel_h * a.window.kernel_w);
  return launch<loop_weights_kernel<Math>>(a.pass.groups, a.pass.parts, taps + 1, kPassThreads,
                                           kSumBytes<kChunkElements<Math>, 1>, stream, a);
}

}  // namespace

int launch_depthwise_loop(const DepthwiseLoopArgs& a, DType type, StreamHandle stream) {
  const auto on = static_cast<Stream>(stream);
  return type == DType::f16 ? forward<F16>(a, on) : type == DType::bf16 ? forward<BF16>(a, on) : forward<F32>(a, on);
}
int launch_depthwise_loop_gradient(const DepthwiseLoopArgs& a, DType type, bool sums, StreamHandle stream) {
  const auto on = static_cast<Stream>(stream);
  return type == DType::f16    ? gradient<F16>(a, sums, on)
         : type == DType::bf16 ? gradient<BF16>(a, sums, on)
                               : gradient<F32>(a, sums, on);
}
int launch_depthwise_loop_weights(const DepthwiseLoopArgs& a, DType type, StreamHandle stream) {
  const auto on = static_cast<Stream>(stream);
  return type == DType::f16 ? weights<F16>(a, on) : type == DType::bf16 ? weights<BF16>(a, on) : weights<F32>(a, on);
}

}  // namespace lightops::cuda
