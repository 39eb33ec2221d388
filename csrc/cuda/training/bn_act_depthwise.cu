// Depthwise forward: the norm and activation of x on the way into the window, the batch statistics of y on the way out. x and y move
// once. Sums are fp32 on the ordinary cores, tap by tap, taps outside the map left out as zeros.
#include "training/bn_act_depthwise.h"

#include "plan.h"
#include "training/depthwise_loop.h"
#include "training/depthwise_pass.cuh"
#include "training/norm.h"
#include "training/statistics.h"

namespace lightops::cuda {
namespace {

template <class Math, int kKernel, int kStride>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kDepthwiseThreads,
                                       kKernel == 3 && sizeof(typename Math::Store) == 2 ? 5 - kStride : 2)
    depthwise_kernel(LIGHTOPS_PARAMS(DepthwiseArgs) a) {
  constexpr int kCells = depthwise_cells(kKernel, kStride), kWide = (kCells - 1) * kStride + kKernel,
                kTaps = kKernel * kKernel;
  const DepthwiseThread thread(a.pass, a.x.channels);
  const int c = thread.channel;
  const ThreadNorm<2> norm(a.norm, c, a.x.channels, thread.on);
  const Clamp act(a.act);
  float weight[kTaps][2], bias[2];
  load_weights<Math>(weight, a.weight, c, a.x.channels, thread.on);
  const auto* const biases = reinterpret_cast<const typename Math::Store*>(a.bias);
#pragma unroll
  for (int e = 0; e < 2; ++e)
    bias[e] = biases ? Math::load(load_global(biases + c + e, thread.on && c + e < a.x.channels)) : 0.f;
  Moments<2> moments;
  thread.each(a.pass, kCells, [&](int image, int first, int column, bool on) {
    const int x0 = column * kStride - a.pad_w;
    const unsigned columns = on ? columns_inside<kWide>(x0, a.x.width) : 0u,
                   cells = on ? columns_inside<kCells>(column, a.y.width) : 0u;
    float window[kKernel][kWide][2];
    RowOfPairs<Math, kWide> coming[kStride];
    // u of a row of the window; the padding is zeros of u.
    const auto take = [&](const RowOfPairs<Math, kWide>& row, float (&to)[kWide][2]) {
#pragma unroll
      for (int i = 0; i < kWide; ++i) {
        unpack<Math>(row.raw[i], to[i]);
#pragma unroll
        for (int e = 0; e < 2; ++e) to[i][e] = row.has(i) ? act(norm(e, to[i][e])) : 0.f;
      }
    };
    const int y0 = first * kStride - a.pad_h;
#pragma unroll
    for (int k = 0; k < kKernel - kStride; ++k) {
      coming[0].load(a.x, image, y0 + k, x0, c, columns);
      take(coming[0], window[k]);
    }
#pragma unroll
    for (int s = 0; s < kStride; ++s) coming[s].load(a.x, image, y0 + kKernel - kStride + s, x0, c, columns);
#pragma unroll(kKernel == 3 ? 3 : 1)
    for (int r = 0; r < a.pass.rows; ++r) {
#pragma unroll
      for (int s = 0; s < kStride; ++s) take(coming[s], window[kKernel - kStride + s]);
      const int y = first + r;
#pragma unroll
      for (int s = 0; s < kStride; ++s)
        coming[s].load(a.x, image, y0 + (r + 1) * kStride + kKernel - kStride + s, x0, c,
                       r + 1 < a.pass.rows ? columns : 0u);
      const int64_t start = pixel_offset(a.y, image, static_cast<int64_t>(y) * a.y.width + column);
#pragma unroll
      for (int i = 0; i < kCells; ++i) {
        float v[2] = {0.f, 0.f};
#pragma unroll
        for (int k = 0; k < kTaps; ++k)
#pragma unroll
          for (int e = 0; e < 2; ++e)
            v[e] = multiply_add(window[k / kKernel][i * kStride + k % kKernel][e], weight[k][e], v[e]);
#pragma unroll
        for (int e = 0; e < 2; ++e) v[e] += bias[e];
        PairType<Math> raw;
        pack<Math>(v, raw);
        const bool there = y < a.y.height && (cells >> i & 1u);
        store_pair<Math>(a.y, start + i * a.y.pixel, c, raw, there);
        unpack<Math>(raw, v);  // the statistics are those of what is stored
        if (there) moments.add(v);
      }
#pragma unroll
      for (int k = 0; k < kKernel - kStride; ++k)
#pragma unroll
        for (int i = 0; i < kWide; ++i)
#pragma unroll
          for (int e = 0; e < 2; ++e) window[k][i][e] = window[k + kStride][i][e];
    }
  });
  if (!a.moments) return;
  const int left = block_x() * a.pass.columns * 2;
  merge_lanes<kDepthwiseThreads>(a.pass, moments, [&](int channel, float mean, float deviation, float count) {
    const int at = left + channel;
    float* const out = a.moments + static_cast<int64_t>(block_y()) * 2 * a.x.channels + at;
    store_global(out, mean, at < a.x.channels);
    store_global(out + a.x.channels, deviation, at < a.x.channels);
    store_global(a.counts + block_y(), count, at == 0);
  });
}

template <class Math, int kKernel, int kStride>
int launch_depthwise(const DepthwiseArgs& a, Stream stream) {
  return launch<depthwise_kernel<Math, kKernel, kStride>>(a.pass.groups, a.pass.parts, 1, kDepthwiseThreads,
                                                          kMomentBytes<2, kDepthwiseThreads>, stream, a);
}
template <class Math>
int launch_depthwise(const DepthwiseArgs& a, const Window& w, Stream stream) {
  if (w.kernel[0] == 3)
    return w.stride[0] == 1 ? launch_depthwise<Math, 3, 1>(a, stream) : launch_depthwise<Math, 3, 2>(a, stream);
  return w.stride[0] == 1 ? launch_depthwise<Math, 5, 1>(a, stream) : launch_depthwise<Math, 5, 2>(a, stream);
}

struct Plan {
  DepthwiseLoopArgs args{};
  bool strips;
  int parts;
  int64_t workspace;
};

Plan plan_forward(const BnActConv2dParams& p) {
  Plan plan;
  const int bytes = element_bytes(p.type);
  DepthwiseArgs& a = plan.args.of;
  a.x = view_of(p.x, bytes);
  a.y = view_of(p.y, bytes);
  a.norm = norm_args(p.norm);
  a.act = static_cast<int>(p.act);
  a.pad_h = static_cast<int>(p.window.padding[0]);
  a.pad_w = static_cast<int>(p.window.padding[1]);
  a.weight = static_cast<const unsigned char*>(p.weight);
  a.bias = static_cast<const unsigned char*>(p.bias);
  plan.strips = goes_in_strips({p.x, p.y}, p.window, p.act, bytes);
  if (plan.strips) {
    const int cells = depthwise_cells(static_cast<int>(p.window.kernel[0]), static_cast<int>(p.window.stride[0]));
    a.pass = plan_depthwise(p.y.n, p.y.h, p.y.w, p.x.c, cells, kPassBlocks);
    plan.parts = a.pass.parts;
  } else {
    plan.args.pass = plan_pass(p.y, bytes);
    plan.args.window = geometry_of(p.window);
    plan.parts = plan.args.pass.parts;
  }
  Pieces pieces(p.workspace);
  if (p.mean) {
    a.moments = pieces.take<float>(static_cast<int64_t>(plan.parts) * 2 * p.x.c);
    a.counts = pieces.take<float>(plan.parts);
  }
  plan.workspace = pieces.used;
  return plan;
}

int launch_strips(const DepthwiseArgs& a, const BnActConv2dParams& p, Stream stream) {
  return p.type == DType::f16    ? launch_depthwise<F16>(a, p.window, stream)
         : p.type == DType::bf16 ? launch_depthwise<BF16>(a, p.window, stream)
                                 : launch_depthwise<F32>(a, p.window, stream);
}

}  // namespace

int64_t bn_act_depthwise_cuda_workspace(const BnActConv2dParams& p, const Device&) {
  return pass_refusal(p.x, p.type) ? 0 : plan_forward(p).workspace;
}

Result bn_act_depthwise_cuda(const BnActConv2dParams& p, const Device&, StreamHandle stream) {
  if (const char* refusal = pass_refusal(p.x, p.type)) return {refusal, 0};
  const Plan plan = plan_forward(p);
  const DepthwiseArgs& a = plan.args.of;
  const int error =
      plan.strips ? launch_strips(a, p, static_cast<Stream>(stream)) : launch_depthwise_loop(plan.args, p.type, stream);
  if (error || !p.mean) return {nullptr, error};
  return run_merge_stats({a.moments, a.counts, plan.parts, a.x.channels, p.y.n * p.y.h * p.y.w},
                         static_cast<float*>(p.mean), static_cast<float*>(p.var), stream);
}

}  // namespace lightops::cuda
