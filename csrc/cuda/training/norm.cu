#include "training/norm.h"

#include "plan.h"
#include "training/channel_pass.cuh"
#include "training/merge.cuh"

namespace lightops::cuda {
namespace {

// --- the affine form -------------------------------------------------------------------------------------------------

struct AffineArgs {
  NormArgs norm;
  int channels;
  float *scale, *shift;
};

LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kPassThreads, 1) affine_kernel(LIGHTOPS_PARAMS(AffineArgs) a) {
  const int channel = block_x() * kPassThreads + thread_index();
  const bool on = channel < a.channels;
  float scale, shift;
  affine_entry(a.norm, channel, on, &scale, &shift);
  store_global(a.scale + channel, scale, on);
  store_global(a.shift + channel, shift, on);
}

// --- backward --------------------------------------------------------------------------------------------------------

struct BackwardArgs {
  ChannelPass pass;
  View du, x, dx, before;
  int du_shift;  // 1: a pixel of du stands for 2x2 of x
  NormArgs norm;
  int act;
  float gain;
  bool accumulate;
  const float *slope, *constant;  // of dx, or null: scale * dz alone
  float* sums;                    // of every part: [2][channels], dz and dz * (x - mean)
};

// A chunk of channels of type Math as floats, where the tensor may be of another type.
template <class Math, class As>
LIGHTOPS_DEVICE void load_floats(const View& v, Pixel p, int channel, float (&out)[kChunkElements<As>]) {
  constexpr int kElements = kChunkElements<Math>;
#pragma unroll
  for (int i = 0; i < kChunkElements<As> / kElements; ++i) {
    float part[kElements];
    unpack<Math>(load_chunk<Math>(v, offset_of(v, p), channel + i * kElements, p.on), part);
#pragma unroll
    for (int e = 0; e < kElements; ++e) out[i * kElements + e] = part[e];
  }
}
template <class Math, class As>
LIGHTOPS_DEVICE void store_floats(const View& v, Pixel p, int channel, const float (&in)[kChunkElements<As>]) {
  constexpr int kElements = kChunkElements<Math>;
#pragma unroll
  for (int i = 0; i < kChunkElements<As> / kElements; ++i) {
    float part[kElements];
#pragma unroll
    for (int e = 0; e < kElements; ++e) part[e] = in[i * kElements + e];
    store_chunk<Math>(v, offset_of(v, p), channel + i * kElements, pack<Math>(part), p.on);
  }
}

// One pass over du and x: the sums, dx, or both. Grid: x = group of columns, y = part; the pass that only writes takes the parts from
// the last on, which the pass of the sums left in L2.
template <class Math, class Out, bool kSums, bool kStore>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kPassThreads, 2) backward_kernel(LIGHTOPS_PARAMS(BackwardArgs) a) {
  constexpr int kElements = kChunkElements<Math>, kBatch = 2;
  const PassThread<Math> thread(a.pass, a.x.channels, kSums ? block_y() : a.pass.parts - 1 - block_y());
  const int c = thread.channel;
  const ThreadNorm<kElements> norm(a.norm, c, a.x.channels, thread.on);
  const Slope through(a.act);
  float mean[kElements], slope[kElements], constant[kElements], sums[2][kElements] = {};
  load_vector(mean, a.norm.mean, c, a.x.channels, thread.on);
  load_vector(slope, kStore ? a.slope : nullptr, c, a.x.channels, thread.on);
  load_vector(constant, kStore ? a.constant : nullptr, c, a.x.channels, thread.on);
  Vec16 raw_x[kBatch], raw_du[kBatch];
  thread.template each<kBatch>(
      [&](int i, Pixel p) {
        raw_x[i] = load_chunk<Math>(a.x, offset_of(a.x, p), c, p.on);
        const Pixel of{p.image, p.row >> a.du_shift, p.column >> a.du_shift, p.on};
        const bool some =
            p.on && of.row < a.du.height && of.column < a.du.width;  // a pool drops the last of an odd number
        raw_du[i] = load_chunk<Math>(a.du, some ? offset_of(a.du, of) : 0, c, some);
      },
      [&](int i, Pixel p) {
        float x[kElements], z[kElements], dz[kElements];
        unpack<Math>(raw_x[i], x);
        unpack<Math>(raw_du[i], dz);
#pragma unroll
        for (int e = 0; e < kElements; ++e) z[e] = norm(e, x[e]), dz[e] *= a.gain;
        through.apply(dz, z);
#pragma unroll
        for (int e = 0; e < kElements; ++e) {
          const float off = x[e] - mean[e];
          if constexpr (kSums) {
            sums[0][e] += dz[e];
            sums[1][e] = multiply_add(dz[e], off, sums[1][e]);
          }
          if constexpr (kStore) dz[e] = combine(dz[e] * norm.scale[e], off, slope[e], constant[e], a.slope);
        }
        if constexpr (kStore) {
          if (a.accumulate) {
            float before[kElements];
            load_floats<Out, Math>(a.before, p, c, before);
#pragma unroll
            for (int e = 0; e < kElements; ++e) dz[e] += before[e];
          }
          store_floats<Out, Math>(a.dx, p, c, dz);
        }
      });
  if constexpr (kSums) {
    const int first = block_x() * a.pass.columns * kElements;
    sum_lanes(a.pass, sums, [&](int channel, const float (&total)[2]) {
      const int at = first + channel;
      float* const out = a.sums + static_cast<int64_t>(thread.part) * 2 * a.x.channels + at;
      store_global(out, total[0], at < a.x.channels);
      store_global(out + a.x.channels, total[1], at < a.x.channels);
    });
  }
}

// What the sums mean: the vectors' gradients, and the coefficients of dx.
struct GradientMerge {
  static constexpr int kKinds = 2;
  NormArgs norm;
  PartialSums p;
  float *dgamma, *dbeta;       // or null
  float *slope, *constant;     // or null
  bool accumulate;             // slope and constant
  int channels, parts;

  LIGHTOPS_DEVICE void add(int part, int channel, bool on, double (&total)[kKinds]) const {
    const float* const at = p.sums + static_cast<int64_t>(part) * 2 * channels + channel;
    total[0] += load_global(at, on);
    total[1] += load_global(at + channels, on);
  }
  LIGHTOPS_DEVICE void finish(int channel, const double (&total)[kKinds]) const {
    const float root = square_root(load_global(norm.var + channel) + norm.eps);
    const float gain = (norm.gamma ? load_global(norm.gamma + channel) : 1.f) / root;
    if (dgamma) store_global(dgamma + channel, static_cast<float>(total[1]) / root);
    if (dbeta) store_global(dbeta + channel, static_cast<float>(total[0]));
    if (!slope) return;
    const float each = -gain / static_cast<float>(p.pixels);
    const float by_x = each * static_cast<float>(total[1]) / root / root, by_one = each * static_cast<float>(total[0]);
    store_global(slope + channel, by_x + (accumulate ? load_global(slope + channel) : 0.f));
    store_global(constant + channel, by_one + (accumulate ? load_global(constant + channel) : 0.f));
  }
};

template <class Math, class Out>
int launch_backward(const BackwardArgs& a, bool sums, bool store, Stream stream) {
  const auto x = static_cast<unsigned>(a.pass.groups), y = static_cast<unsigned>(a.pass.parts);
  constexpr unsigned kShared = kSumBytes<kChunkElements<Math>, 2>;
  if (!store) return launch<backward_kernel<Math, Math, true, false>>(x, y, 1, kPassThreads, kShared, stream, a);
  if (sums) return launch<backward_kernel<Math, Out, true, true>>(x, y, 1, kPassThreads, kShared, stream, a);
  return launch<backward_kernel<Math, Out, false, true>>(x, y, 1, kPassThreads, 0, stream, a);
}

int launch_backward(const BackwardArgs& a, DType type, DType out, bool sums, bool store, StreamHandle stream) {
  const auto on = static_cast<Stream>(stream);
  if (type == DType::f32) return launch_backward<F32, F32>(a, sums, store, on);
  if (type == DType::f16)
    return out == type ? launch_backward<F16, F16>(a, sums, store, on) : launch_backward<F16, F32>(a, sums, store, on);
  return out == type ? launch_backward<BF16, BF16>(a, sums, store, on) : launch_backward<BF16, F32>(a, sums, store, on);
}

struct BackwardPlan {
  BackwardArgs args{};
  bool sums = false;     // are wanted
  bool deferred = false; // dx lacks what the sums contribute
  float *slope = nullptr, *constant = nullptr;
  int64_t workspace = 0;
};

BackwardPlan plan_backward(NormGradient g, void* workspace) {
  BackwardPlan plan;
  const int bytes = element_bytes(g.type);
  if (!g.pooled) join_images({&g.du, &g.x, &g.dx, &g.before});
  BackwardArgs& a = plan.args;
  a.pass = plan_pass(g.x, bytes);
  a.du = view_of(g.du, bytes);
  a.x = view_of(g.x, bytes);
  if (g.dx.data) a.dx = view_of(g.dx, element_bytes(g.dx_type));
  if (g.accumulate) a.before = view_of(g.before, element_bytes(g.dx_type));
  a.norm = norm_args(g.norm);
  a.act = static_cast<int>(g.act);
  a.gain = g.gain;
  a.du_shift = g.pooled ? 1 : 0;
  a.accumulate = g.accumulate;
  const bool batch = g.norm.mean && g.norm.batch;
  plan.deferred = g.accumulate && batch;
  plan.sums = g.norm.mean && (g.dgamma || g.dbeta || (batch && g.dx.data));
  Pieces pieces(workspace);
  if (plan.sums) a.sums = pieces.take<float>(static_cast<int64_t>(a.pass.parts) * 2 * g.x.c);
  if (plan.deferred) {
    plan.slope = g.slope;
    plan.constant = g.constant;
  } else if (batch && g.dx.data) {
    plan.slope = pieces.take<float>(g.x.c);
    plan.constant = pieces.take<float>(g.x.c);
  }
  plan.workspace = pieces.used;
  return plan;
}

// --- what a dense block's prefix still lacks -------------------------------------------------------------------------

struct FinishArgs {
  ChannelPass pass;
  View gradient, x, out;
  const float *mean, *slope, *constant;
};

template <class Math, class In, class Out>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kPassThreads, 2) finish_kernel(LIGHTOPS_PARAMS(FinishArgs) a) {
  constexpr int kElements = kChunkElements<Math>, kBatch = 2;
  const PassThread<Math> thread(a.pass, a.x.channels, block_y());
  const int c = thread.channel;
  float mean[kElements], slope[kElements], constant[kElements];
  load_vector(mean, a.mean, c, a.x.channels, thread.on);
  load_vector(slope, a.slope, c, a.x.channels, thread.on);
  load_vector(constant, a.constant, c, a.x.channels, thread.on);
  Vec16 raw[kBatch];
  float gradient[kBatch][kElements];
  thread.template each<kBatch>(
      [&](int i, Pixel p) {
        raw[i] = load_chunk<Math>(a.x, offset_of(a.x, p), c, p.on);
        load_floats<In, Math>(a.gradient, p, c, gradient[i]);
      },
      [&](int i, Pixel p) {
        float x[kElements];
        unpack<Math>(raw[i], x);
#pragma unroll
        for (int e = 0; e < kElements; ++e) x[e] = gradient[i][e] + multiply_add(x[e] - mean[e], slope[e], constant[e]);
        store_floats<Out, Math>(a.out, p, c, x);
      });
}

template <class Math>
int launch_finish(const FinishArgs& a, DType type, DType gradient, DType out, Stream stream) {
  const auto x = static_cast<unsigned>(a.pass.groups), y = static_cast<unsigned>(a.pass.parts);
  if (gradient == DType::f32 && out == DType::f32)
    return launch<finish_kernel<Math, F32, F32>>(x, y, 1, kPassThreads, 0, stream, a);
  if constexpr (sizeof(typename Math::Store) == 2) {
    if (gradient == type && out == type)
      return launch<finish_kernel<Math, Math, Math>>(x, y, 1, kPassThreads, 0, stream, a);
    if (gradient == DType::f32) return launch<finish_kernel<Math, F32, Math>>(x, y, 1, kPassThreads, 0, stream, a);
  }
  return 0;
}

}  // namespace

Result run_affine(const Norm& norm, int64_t channels, float* scale, float* shift, StreamHandle stream) {
  const AffineArgs a{norm_args(norm), static_cast<int>(channels), scale, shift};
  const auto blocks = static_cast<unsigned>(ceil_div(channels, kPassThreads));
  return {nullptr, launch<affine_kernel>(blocks, 1, 1, kPassThreads, 0, static_cast<Stream>(stream), a)};
}

int64_t norm_backward_workspace(const NormGradient& g, const Device&) {
  return pass_refusal(g.x, g.type) ? 0 : plan_backward(g, nullptr).workspace;
}

Result run_merge_sums(const PartialSums& p, const Norm& norm, float* dgamma, float* dbeta, float* slope,
                      float* constant, bool accumulate, StreamHandle stream) {
  const GradientMerge merge{norm_args(norm), p, dgamma, dbeta, slope, constant, accumulate, p.channels, p.parts};
  return {nullptr, launch_merge(merge, static_cast<Stream>(stream))};
}

// Batch statistics: a pass of the sums, then dx from them; du and x are read twice. Without them, or where a dense block adds later
// what the sums contribute, one pass does both.
Result run_norm_backward(const NormGradient& g, void* workspace, const Device&, StreamHandle stream) {
  if (const char* refusal = pass_refusal(g.x, g.type)) return {refusal, 0};
  const BackwardPlan plan = plan_backward(g, workspace);
  BackwardArgs a = plan.args;
  const bool store = g.dx.data, once = !plan.slope || plan.deferred;
  if (!plan.sums) return {nullptr, store ? launch_backward(a, g.type, g.dx_type, false, true, stream) : 0};
  if (const int error = launch_backward(a, g.type, g.dx_type, true, store && once, stream)) return {nullptr, error};
  const Result merged = run_merge_sums({a.sums, a.pass.parts, a.x.channels, a.pass.pixels}, g.norm, g.dgamma, g.dbeta,
                                       plan.slope, plan.constant, plan.deferred, stream);
  if (!merged.ok() || once) return merged;
  a.slope = plan.slope;
  a.constant = plan.constant;
  return {nullptr, launch_backward(a, g.type, g.dx_type, false, true, stream)};
}

Result run_norm_finish(const NormGradient& g, const float* slope, const float* constant, StreamHandle stream) {
  if (const char* refusal = pass_refusal(g.x, g.type)) return {refusal, 0};
  NormGradient masked = g;
  masked.du = g.dx;
  masked.act = Act::none;
  BackwardArgs a = plan_backward(masked, nullptr).args;
  a.slope = slope;
  a.constant = constant;
  return {nullptr, launch_backward(a, g.type, g.dx_type, false, true, stream)};
}

Result run_finish_gradient(const Nhwc& gradient, DType gradient_type, const Nhwc& x, DType type, const Nhwc& out,
                           DType out_type, const float* mean, const float* slope, const float* constant,
                           StreamHandle stream) {
  if (const char* refusal = pass_refusal(x, type)) return {refusal, 0};
  const bool known = (gradient_type == DType::f32 || gradient_type == type) &&
                     (out_type == type || (out_type == DType::f32 && gradient_type == DType::f32));
  if (!known) return {"a gradient is of x's type or float32, and so is what comes of it", 0};
  Nhwc from = gradient, line = x, to = out;
  join_images({&from, &line, &to});
  FinishArgs a{};
  a.pass = plan_pass(line, element_bytes(type));
  a.gradient = view_of(from, element_bytes(gradient_type));
  a.x = view_of(line, element_bytes(type));
  a.out = view_of(to, element_bytes(out_type));
  a.mean = mean;
  a.slope = slope;
  a.constant = constant;
  const auto on = static_cast<Stream>(stream);
  return {nullptr, type == DType::f16    ? launch_finish<F16>(a, type, gradient_type, out_type, on)
                   : type == DType::bf16 ? launch_finish<BF16>(a, type, gradient_type, out_type, on)
                                         : launch_finish<F32>(a, type, gradient_type, out_type, on)};
}

}  // namespace lightops::cuda
