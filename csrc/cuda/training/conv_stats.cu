#include "training/conv_stats.h"

#include <algorithm>

#include "number.cuh"
#include "training/channel_pass.h"
#include "training/statistics.h"

namespace lightops::cuda {
namespace {

struct GroupArgs {
  const float *moments, *counts;  // of `parts` tiles
  float *to, *to_counts;          // of ceil(parts / kTileGroup) groups
  int channels, parts;
};

// One thread per channel, in steps of neighbouring channels; grid: x = channels, y = group. Means as distances from the first tile's.
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kPassThreads, 1) group_moments_kernel(LIGHTOPS_PARAMS(GroupArgs) a) {
  const int c = block_x() * kPassThreads + thread_index(), first = block_y() * kTileGroup;
  const int last = first + kTileGroup < a.parts ? first + kTileGroup : a.parts;
  const bool on = c < a.channels;
  const int64_t step = 2 * static_cast<int64_t>(a.channels);
  const float* const from = a.moments + first * step + (on ? c : 0);
  const float reference = load_global(from, on);
  double count = 0, sum = 0, squares = 0;
#pragma unroll 4
  for (int part = first; part < last; ++part) {
    const float* const at = from + (part - first) * step;
    const double pixels = load_global(a.counts + part), off = load_global(at, on) - reference;
    count += pixels;
    sum += pixels * off;
    squares += load_global(at + a.channels, on) + pixels * off * off;
  }
  float* const to = a.to + block_y() * step + (on ? c : 0);
  const double off = sum / count, deviation = squares - sum * off;
  store_global(to, static_cast<float>(reference + off), on);
  store_global(to + a.channels, static_cast<float>(deviation < 0 ? 0 : deviation), on);
  store_global(a.to_counts + block_y(), static_cast<float>(count), c == 0);
}

struct StatsPlan {
  int parts;  // 0: the output is read once more
  int groups;
  float *moments = nullptr, *counts = nullptr, *group_moments = nullptr, *group_counts = nullptr;
  void* rest = nullptr;
  int64_t workspace = 0;
};

StatsPlan plan_stats(const ConvProblem& problem, const Device& device, void* workspace) {
  StatsPlan plan;
  plan.parts = conv_parts(problem, device);
  if (plan.parts > kMostTiles) plan.parts = 0;
  plan.groups = tile_groups(plan.parts);
  Pieces pieces(workspace);
  const int64_t channels = problem.out.c;
  if (plan.parts == 0) {
    plan.rest =
        pieces.take<unsigned char>(std::max(conv_workspace(problem, device), stats_workspace(problem.out, device)));
  } else {
    plan.moments = pieces.take<float>(plan.parts * 2 * channels);
    plan.counts = pieces.take<float>(plan.parts);
    plan.group_moments = pieces.take<float>(plan.groups * 2 * channels);
    plan.group_counts = pieces.take<float>(plan.groups);
  }
  plan.workspace = pieces.used;
  return plan;
}

}  // namespace

int64_t conv_stats_workspace(const ConvProblem& problem, DType type, const Device& device) {
  return element_bytes(type) ? plan_stats(problem, device, nullptr).workspace : 0;
}

Result run_conv_stats(ConvProblem problem, DType type, float* mean, float* var, void* workspace, const Device& device,
                      StreamHandle stream) {
  const StatsPlan plan = plan_stats(problem, device, workspace);
  if (plan.parts == 0) {
    const Result result = run_conv(problem, type, device, plan.rest, stream);
    return result.ok() ? run_stats(problem.out, type, mean, var, plan.rest, device, stream) : result;
  }
  problem.moments = plan.moments;
  problem.counts = plan.counts;
  const Result result = run_conv(problem, type, device, nullptr, stream);
  if (!result.ok()) return result;
  const Nhwc& out = problem.out;
  PartialStats stats{plan.moments, plan.counts, plan.parts, static_cast<int>(out.c), out.n * out.h * out.w};
  if (plan.groups) {
    const GroupArgs args{plan.moments, plan.counts, plan.group_moments, plan.group_counts, stats.channels, plan.parts};
    const auto blocks = static_cast<unsigned>(ceil_div(out.c, kPassThreads));
    const int error = launch<group_moments_kernel>(blocks, static_cast<unsigned>(plan.groups), 1, kPassThreads, 0,
                                                   static_cast<Stream>(stream), args);
    if (error) return {nullptr, error};
    stats.moments = plan.group_moments;
    stats.counts = plan.group_counts;
    stats.parts = plan.groups;
  }
  return run_merge_stats(stats, mean, var, stream);
}

}  // namespace lightops::cuda
