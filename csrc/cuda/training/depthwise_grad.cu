// Depthwise backward. du = the transposed convolution of dy, never stored: one pass takes every sum (of the weight's gradient, of the
// norm's) and a second computes du again and writes dx. That reads x and dy twice; storing du would write and read a third tensor of
// x's size instead of reading dy, at stride 2 a quarter of x. A frozen norm could do with one pass, but in one kernel the sums and
// what dx takes are more registers than three blocks of a multiprocessor have.
//
// A thread goes down a column of cells. Cell (t, s) is the stride x stride pixels of x that are (t, s) * stride - padding and on, and
// the window of dy rows and columns that reach them, up to (t, s).
#include "plan.h"
#include "training/bn_act_depthwise.h"
#include "training/depthwise_loop.h"
#include "training/depthwise_pass.cuh"
#include "training/merge.cuh"
#include "training/norm.h"

namespace lightops::cuda {
namespace {

// Sums of a thread: dz, dz * (x - mean), the bias, then the taps.
template <int kKernel>
constexpr int kSumKinds = kKernel * kKernel + 3;

template <class Math, int kKernel, int kStride, bool kSums>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kDepthwiseThreads, kKernel == 5 || sizeof(typename Math::Store) == 4 ? 2 : 3)
    gradient_kernel(LIGHTOPS_PARAMS(DepthwiseArgs) a) {
  constexpr int kCells = depthwise_cells(kKernel, kStride), kTaps = kKernel * kKernel;
  constexpr int kReach = (kKernel + kStride - 1) / kStride;  // rows and columns of dy that a cell sees
  constexpr int kWide = kCells + kReach - 1, kPixels = kCells * kStride;
  const DepthwiseThread thread(a.pass, a.x.channels);
  const int c = thread.channel;
  const ThreadNorm<2> norm(a.norm, c, a.x.channels, thread.on);
  const Clamp act(a.act);
  const Slope through(a.act);
  float weight[kTaps][2], mean[2], slope[2], constant[2], sums[kSums ? kSumKinds<kKernel> : 1][2] = {};
  load_weights<Math>(weight, a.weight, c, a.x.channels, thread.on);
  load_vector(mean, a.norm.mean, c, a.x.channels, thread.on);
  load_vector(slope, kSums ? nullptr : a.slope, c, a.x.channels, thread.on);
  load_vector(constant, kSums ? nullptr : a.constant, c, a.x.channels, thread.on);
  thread.each(a.pass, kCells, [&](int image, int first, int column, bool on) {
    const int left = column - (kReach - 1), x0 = column * kStride - a.pad_w;
    const unsigned from_y = on ? columns_inside<kWide>(left, a.y.width) : 0u,
                   from_x = on ? columns_inside<kPixels>(x0, a.x.width) : 0u;
    float window[kReach][kWide][2];
    RowOfPairs<Math, kWide> coming;
    RowOfPairs<Math, kPixels> pixels[kStride];
    const auto take = [&](float (&to)[kWide][2]) {
#pragma unroll
      for (int i = 0; i < kWide; ++i) unpack<Math>(coming.raw[i], to[i]);
    };
#pragma unroll
    for (int k = 0; k < kReach - 1; ++k) {
      coming.load(a.y, image, first - (kReach - 1) + k, left, c, from_y);
      take(window[k]);
    }
    coming.load(a.y, image, first, left, c, from_y);
#pragma unroll
    for (int q = 0; q < kStride; ++q) pixels[q].load(a.x, image, first * kStride + q - a.pad_h, x0, c, from_x);
#pragma unroll(kKernel == 3 && kStride == 1 && !kSums ? 3 : 1)
    for (int r = 0; r < a.pass.rows; ++r) {
      const int t = first + r;
      take(window[kReach - 1]);
      coming.load(a.y, image, t + 1, left, c, r + 1 < a.pass.rows ? from_y : 0u);
      if constexpr (kSums) {
#pragma unroll
        for (int i = 0; i < kCells; ++i)
#pragma unroll
          for (int e = 0; e < 2; ++e) sums[2][e] += window[kReach - 1][kReach - 1 + i][e];
      }
#pragma unroll
      for (int q = 0; q < kStride; ++q) {
        const int y = t * kStride + q - a.pad_h;
        const RowOfPairs<Math, kPixels> here = pixels[q];
        pixels[q].load(a.x, image, y + kStride, x0, c, r + 1 < a.pass.rows ? from_x : 0u);
        const int64_t start = pixel_offset(a.dx, image, static_cast<int64_t>(y) * a.x.width + x0);
#pragma unroll
        for (int p = 0; p < kPixels; ++p) {
          const int cell = p / kStride, side = p % kStride;
          const bool there = here.has(p);
          float x[2], z[2], u[2], dz[2] = {0.f, 0.f};
          unpack<Math>(here.raw[p], x);
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            z[e] = norm(e, x[e]);
            u[e] = kSums && there ? act(z[e]) : 0.f;
          }
#pragma unroll
          for (int ky = q; ky < kKernel; ky += kStride)
#pragma unroll
            for (int kx = side; kx < kKernel; kx += kStride) {
              const float (&dy)[2] = window[kReach - 1 - ky / kStride][cell + kReach - 1 - kx / kStride];
#pragma unroll
              for (int e = 0; e < 2; ++e) {
                dz[e] = multiply_add(dy[e], weight[ky * kKernel + kx][e], dz[e]);
                if constexpr (kSums)
                  sums[3 + ky * kKernel + kx][e] = multiply_add(dy[e], u[e], sums[3 + ky * kKernel + kx][e]);
              }
            }
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            dz[e] = through.clipped(dz[e], z[e]);
            const float off = x[e] - mean[e];
            if constexpr (kSums) {
              dz[e] = there ? dz[e] : 0.f;
              sums[0][e] += dz[e];
              sums[1][e] = multiply_add(dz[e], off, sums[1][e]);
            } else {
              dz[e] = combine(dz[e] * norm.scale[e], off, slope[e], constant[e], a.slope);
            }
          }
          if constexpr (!kSums) {
            PairType<Math> raw;
            pack<Math>(dz, raw);
            store_pair<Math>(a.dx, start + p * a.dx.pixel, c, raw, there);
          }
        }
      }
#pragma unroll
      for (int k = 0; k < kReach - 1; ++k)
#pragma unroll
        for (int i = 0; i < kWide; ++i)
#pragma unroll
          for (int e = 0; e < 2; ++e) window[k][i][e] = window[k + 1][i][e];
    }
  });
  if constexpr (kSums) {
    const int from = block_x() * a.pass.columns * 2, channels = a.x.channels;
    sum_lanes<kDepthwiseThreads>(a.pass, sums, [&](int channel, const float (&total)[kSumKinds<kKernel>]) {
      const int at = from + channel;
      const bool some = at < channels;
      float* const norms = a.sums + static_cast<int64_t>(block_y()) * 2 * channels + at;
      store_global(norms, total[0], some);
      store_global(norms + channels, total[1], some);
      float* const weights = a.weights + static_cast<int64_t>(block_y()) * (kTaps + 1) * channels + at;
#pragma unroll
      for (int k = 0; k < kTaps; ++k) store_global(weights + static_cast<int64_t>(k) * channels, total[3 + k], some);
      store_global(weights + static_cast<int64_t>(kTaps) * channels, total[2], some);
    });
  }
}

template <class Math, int kKernel, int kStride>
int launch_gradient(const DepthwiseArgs& a, bool sums, Stream stream) {
  const auto x = static_cast<unsigned>(a.pass.groups), y = static_cast<unsigned>(a.pass.parts);
  constexpr unsigned kShared = kSumBytes<2, kSumKinds<kKernel>, kDepthwiseThreads>;
  if (sums)
    return launch<gradient_kernel<Math, kKernel, kStride, true>>(x, y, 1, kDepthwiseThreads, kShared, stream, a);
  return launch<gradient_kernel<Math, kKernel, kStride, false>>(x, y, 1, kDepthwiseThreads, 0, stream, a);
}
template <class Math>
int launch_gradient(const DepthwiseArgs& a, bool sums, int kernel, int stride, Stream stream) {
  if (kernel == 3)
    return stride == 1 ? launch_gradient<Math, 3, 1>(a, sums, stream) : launch_gradient<Math, 3, 2>(a, sums, stream);
  return stride == 1 ? launch_gradient<Math, 5, 1>(a, sums, stream) : launch_gradient<Math, 5, 2>(a, sums, stream);
}
int launch_gradient(const DepthwiseArgs& a, DType type, bool sums, const Window& w, StreamHandle stream) {
  const auto on = static_cast<Stream>(stream);
  const int kernel = static_cast<int>(w.kernel[0]), stride = static_cast<int>(w.stride[0]);
  return type == DType::f16    ? launch_gradient<F16>(a, sums, kernel, stride, on)
         : type == DType::bf16 ? launch_gradient<BF16>(a, sums, kernel, stride, on)
                               : launch_gradient<F32>(a, sums, kernel, stride, on);
}

// [parts][taps + 1][C] to the dense weight [C][taps] and the bias [C], of the activations' type.
template <class Math>
struct WeightMerge {
  static constexpr int kKinds = 1;
  const float* partial;
  unsigned char *weight, *bias;  // or null
  int taps, of_channels;
  int channels, parts;  // (taps + 1) * C sums

  LIGHTOPS_DEVICE void add(int part, int at, bool on, double (&sums)[kKinds]) const {
    sums[0] += load_global(partial + static_cast<int64_t>(part) * channels + at, on);
  }
  LIGHTOPS_DEVICE void finish(int at, const double (&sums)[kKinds]) const {
    const int tap = at / of_channels, c = at - tap * of_channels;
    using Store = typename Math::Store;
    const Store value = Math::store(static_cast<float>(sums[0]));
    if (tap == taps) store_global(reinterpret_cast<Store*>(bias) + c, value, bias != nullptr);
    else
      store_global(reinterpret_cast<Store*>(weight) + static_cast<int64_t>(c) * taps + tap, value, weight != nullptr);
  }
};

struct Plan {
  DepthwiseLoopArgs args{};
  ChannelPass over_y{};  // of the loop's weights; args.pass goes over x
  bool strips;
  bool batch, norms, weights;  // dx needs the sums; sums of the norm, of the weight and the bias are taken
  int norm_parts, weight_parts;
  float *slope = nullptr, *constant = nullptr;
  int64_t workspace;
};

Plan plan_gradient(const BnActConv2dBackwardParams& p) {
  constexpr int kBlocks = 512;  // partial sums of weights are many: half of what a pass has elsewhere
  Plan plan;
  DepthwiseArgs& a = plan.args.of;
  const int bytes = element_bytes(p.type), stride = static_cast<int>(p.window.stride[0]);
  a.x = view_of(p.x, bytes);
  a.y = view_of(p.dy, bytes);
  if (p.dx.data) a.dx = view_of(p.dx, bytes);
  a.norm = norm_args(p.norm);
  a.act = static_cast<int>(p.act);
  a.pad_h = static_cast<int>(p.window.padding[0]);
  a.pad_w = static_cast<int>(p.window.padding[1]);
  a.weight = static_cast<const unsigned char*>(p.weight);
  plan.batch = p.norm.mean && p.norm.batch && p.dx.data;
  plan.norms = p.norm.mean && (plan.batch || p.dgamma || p.dbeta);
  plan.weights = p.dweight || p.dbias;
  plan.strips = goes_in_strips({p.x, p.dy, p.dx}, p.window, p.act, bytes);
  if (plan.strips) {
    const int64_t rows = (p.x.h - 1 + p.window.padding[0]) / stride + 1,
                  columns = (p.x.w - 1 + p.window.padding[1]) / stride + 1;
    a.pass = plan_depthwise(p.x.n, rows, columns, p.x.c, depthwise_cells(static_cast<int>(p.window.kernel[0]), stride),
                            kBlocks);
    plan.norm_parts = plan.weight_parts = a.pass.parts;
    plan.norms = plan.weights = plan.norms || plan.weights;  // one kernel takes both
  } else {
    plan.args.window = geometry_of(p.window);
    plan.args.pass = plan_pass(p.x, bytes);
    plan.over_y = plan_pass(p.dy, bytes);
    plan.norm_parts = plan.args.pass.parts;
    plan.weight_parts = plan.over_y.parts;
  }
  Pieces pieces(p.workspace);
  if (plan.norms) a.sums = pieces.take<float>(static_cast<int64_t>(plan.norm_parts) * 2 * p.x.c);
  if (plan.weights)
    a.weights = pieces.take<float>(plan.weight_parts * (p.window.kernel[0] * p.window.kernel[1] + 1) * p.x.c);
  if (plan.batch) {
    plan.slope = pieces.take<float>(p.x.c);
    plan.constant = pieces.take<float>(p.x.c);
  }
  plan.workspace = pieces.used;
  return plan;
}

int take_sums(const Plan& plan, const BnActConv2dBackwardParams& p, StreamHandle stream) {
  if (plan.strips) return plan.norms ? launch_gradient(plan.args.of, p.type, true, p.window, stream) : 0;
  DepthwiseLoopArgs a = plan.args;
  if (plan.norms)
    if (const int error = launch_depthwise_loop_gradient(a, p.type, true, stream)) return error;
  a.pass = plan.over_y;
  return plan.weights ? launch_depthwise_loop_weights(a, p.type, stream) : 0;
}

template <class Math>
int merge_weights(const Plan& plan, const BnActConv2dBackwardParams& p, StreamHandle stream) {
  const int taps = static_cast<int>(p.window.kernel[0] * p.window.kernel[1]), channels = plan.args.of.x.channels;
  return launch_merge(
      WeightMerge<Math>{plan.args.of.weights, static_cast<unsigned char*>(p.dweight),
                        static_cast<unsigned char*>(p.dbias), taps, channels, (taps + 1) * channels, plan.weight_parts},
      static_cast<Stream>(stream));
}

Result merge_sums(const Plan& plan, const BnActConv2dBackwardParams& p, StreamHandle stream) {
  if (plan.batch || p.dgamma || p.dbeta) {
    const Result merged = run_merge_sums(
        {plan.args.of.sums, plan.norm_parts, plan.args.of.x.channels, p.x.n * p.x.h * p.x.w}, p.norm,
        static_cast<float*>(p.dgamma), static_cast<float*>(p.dbeta), plan.slope, plan.constant, false, stream);
    if (!merged.ok()) return merged;
  }
  if (!p.dweight && !p.dbias) return {};
  return {nullptr, p.type == DType::f16    ? merge_weights<F16>(plan, p, stream)
                   : p.type == DType::bf16 ? merge_weights<BF16>(plan, p, stream)
                                           : merge_weights<F32>(plan, p, stream)};
}

}  // namespace

int64_t bn_act_depthwise_backward_cuda_workspace(const BnActConv2dBackwardParams& p, const Device&) {
  return pass_refusal(p.x, p.type) ? 0 : plan_gradient(p).workspace;
}

Result bn_act_depthwise_backward_cuda(const BnActConv2dBackwardParams& p, const Device&, StreamHandle stream) {
  if (const char* refusal = pass_refusal(p.x, p.type)) return {refusal, 0};
  Plan plan = plan_gradient(p);
  if (const int error = take_sums(plan, p, stream)) return {nullptr, error};
  const Result merged = merge_sums(plan, p, stream);
  if (!merged.ok() || !p.dx.data) return merged;
  plan.args.of.slope = plan.slope;
  plan.args.of.constant = plan.constant;
  return {nullptr, plan.strips ? launch_gradient(plan.args.of, p.type, false, p.window, stream)
                               : launch_depthwise_loop_gradient(plan.args, p.type, false, stream)};
}

}  // namespace lightops::cuda
