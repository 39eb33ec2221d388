#include "training/statistics.h"

#include "plan.h"
#include "training/channel_pass.cuh"
#include "training/merge.cuh"

namespace lightops::cuda {
namespace {

struct StatsArgs {
  ChannelPass pass;
  View x;
  float *moments, *counts;  // of every part: [2][channels]; its pixels
};

// Grid: x = group of columns, y = part.
template <class Math>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kPassThreads, 4) stats_kernel(LIGHTOPS_PARAMS(StatsArgs) a) {
  constexpr int kElements = kChunkElements<Math>, kBatch = 4;
  const PassThread<Math> thread(a.pass, a.x.channels, block_y());
  Moments<kElements> moments;
  Vec16 raw[kBatch];
  thread.template each<kBatch>(
      [&](int i, Pixel p) { raw[i] = load_chunk<Math>(a.x, offset_of(a.x, p), thread.channel, p.on); },
      [&](int i, Pixel) {
        float v[kElements];
        unpack<Math>(raw[i], v);
        moments.add(v);
      });
  const int first = block_x() * a.pass.columns * kElements;
  merge_lanes(a.pass, moments, [&](int channel, float mean, float deviation, float count) {
    const int c = first + channel;
    float* const out = a.moments + static_cast<int64_t>(thread.part) * 2 * a.x.channels + c;
    store_global(out, mean, c < a.x.channels);
    store_global(out + a.x.channels, deviation, c < a.x.channels);
    store_global(a.counts + thread.part, count, c == 0);
  });
}

// Means as distances from that of the first part, in double.
struct StatsMerge {
  static constexpr int kKinds = 2;
  PartialStats p;
  float *mean, *var;
  int channels, parts;

  LIGHTOPS_DEVICE double reference(int channel, bool on) const {
    const float first = load_global(p.moments + channel, on);
    return first - first == 0.f ? first : 0.f;
  }
  LIGHTOPS_DEVICE void add(int part, int channel, bool on, double (&sums)[kKinds]) const {
    const float* const at = p.moments + static_cast<int64_t>(part) * 2 * channels + channel;
    const double count = load_global(p.counts + part), off = load_global(at, on) - reference(channel, on);
    sums[0] += count * off;
    sums[1] += load_global(at + channels, on) + count * off * off;
  }
  LIGHTOPS_DEVICE void finish(int channel, const double (&sums)[kKinds]) const {
    const double pixels = static_cast<double>(p.pixels), off = sums[0] / pixels;
    const double deviation = sums[1] / pixels - off * off;
    store_global(mean + channel, static_cast<float>(reference(channel, true) + off));
    store_global(var + channel, static_cast<float>(deviation < 0 ? 0 : deviation));
  }
};

template <class Math>
int launch_stats(const StatsArgs& a, Stream stream) {
  return launch<stats_kernel<Math>>(a.pass.groups, a.pass.parts, 1, kPassThreads, kMomentBytes<kChunkElements<Math>>,
                                    stream, a);
}

}  // namespace

int64_t stats_workspace(const Nhwc& x, const Device&) {
  Nhwc line = x;
  join_images({&line});
  const int64_t parts =
      plan_pass(line, 2).parts > plan_pass(line, 4).parts ? plan_pass(line, 2).parts : plan_pass(line, 4).parts;
  Pieces pieces(nullptr);
  pieces.take<float>(parts * 2 * x.c);
  pieces.take<float>(parts);
  return pieces.used;
}

Result run_stats(const Nhwc& x, DType type, float* mean, float* var, void* workspace, const Device&,
                 StreamHandle stream) {
  if (const char* refusal = pass_refusal(x, type)) return {refusal, 0};
  Nhwc line = x;
  join_images({&line});
  StatsArgs a{};
  a.pass = plan_pass(line, element_bytes(type));
  a.x = view_of(line, element_bytes(type));
  Pieces pieces(workspace);
  a.moments = pieces.take<float>(static_cast<int64_t>(a.pass.parts) * 2 * x.c);
  a.counts = pieces.take<float>(a.pass.parts);
  const auto on = static_cast<Stream>(stream);
  const int error = type == DType::f16    ? launch_stats<F16>(a, on)
                    : type == DType::bf16 ? launch_stats<BF16>(a, on)
                                          : launch_stats<F32>(a, on);
  if (error) return {nullptr, error};
  return run_merge_stats({a.moments, a.counts, a.pass.parts, a.x.channels, a.pass.pixels}, mean, var, stream);
}

Result run_merge_stats(const PartialStats& p, float* mean, float* var, StreamHandle stream) {
  return {nullptr, launch_merge(StatsMerge{p, mean, var, p.channels, p.parts}, static_cast<Stream>(stream))};
}

}  // namespace lightops::cuda
