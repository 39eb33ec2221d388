#include "training/masked_gradient.h"

#include <algorithm>

#include "number.cuh"
#include "training/channel_pass.h"

namespace lightops::cuda {
namespace {

struct GroupArgs {
  const float* sums;  // [parts][entries]
  float* to;          // [ceil(parts / kTileGroup)][entries]
  int entries, parts;
};

// One thread per entry, in steps of neighbouring entries; grid: x = entries, y = group.
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kPassThreads, 1) group_sums_kernel(LIGHTOPS_PARAMS(GroupArgs) a) {
  const int at = block_x() * kPassThreads + thread_index(), first = block_y() * kTileGroup;
  const int last = first + kTileGroup < a.parts ? first + kTileGroup : a.parts;
  const bool on = at < a.entries;
  const float* const from = a.sums + (on ? at : 0);
  double total = 0;
#pragma unroll 8
  for (int part = first; part < last; ++part) total += load_global(from + static_cast<int64_t>(part) * a.entries, on);
  store_global(a.to + block_y() * static_cast<int64_t>(a.entries) + (on ? at : 0), static_cast<float>(total), on);
}

struct MaskedPlan {
  const char* refusal = nullptr;
  std::vector<GradientPlan> convs;
  int parts = 0;  // of all; 0: du is stored
  bool sums = false;  // are wanted
  bool once = true;   // dz is all of dx that this call adds; otherwise slope and constant follow in a second pass
  int groups = 0;
  float *scale = nullptr, *shift = nullptr, *tile_sums = nullptr, *group_sums = nullptr;
  float *slope = nullptr, *constant = nullptr;
  void* rest = nullptr;  // of the unfused calls
  int64_t workspace = 0;
};

MaskedPlan plan_masked(const MaskedGradient& g, void* workspace, const Device& device) {
  MaskedPlan plan;
  const NormGradient& n = g.norm;
  const bool batch = n.norm.mean && n.norm.batch;
  plan.sums = n.norm.mean && (n.dgamma || n.dbeta || (batch && n.dx.data));
  plan.once = !batch || n.accumulate || !n.dx.data;
  GradientProblem p;
  p.x = n.x;
  p.act = n.act;
  p.scaled = n.norm.mean && plan.once;
  Pieces pieces(workspace);
  if (n.norm.mean) {
    p.scale = plan.scale = pieces.take<float>(n.x.c);
    p.shift = plan.shift = pieces.take<float>(n.x.c);
    p.mean = static_cast<const float*>(n.norm.mean);
  }
  const bool plain = !n.pooled && n.gain == 1.f && n.dx_type == n.type;
  const bool lattice = g.convs.empty() || g.convs[0].lattice.width > 0;
  int& parts = plan.parts;
  for (const ConvProblem& conv : g.convs) {
    if (!plain) break;
    p.conv = conv;
    p.conv.out = n.dx;
    if (!n.dx.data) p.conv.out = {nullptr, n.x.n, n.x.h, n.x.w, n.x.c, n.x.c, n.x.h * n.x.w * n.x.c};
    p.conv.out.h = conv.out.h;
    p.conv.out.w = conv.out.w;
    if (n.accumulate) p.conv.residual = n.before;
    plan.convs.push_back(plan_gradient(p, device));
    parts += plan.convs.back().parts;
    if (lattice && plan.convs.back().conv.refusal) plan.refusal = plan.convs.back().conv.refusal;
  }
  if (parts > kMostTiles || pass_refusal(n.x, n.type)) parts = 0;
  if (parts == 0 && lattice && !plan.refusal) plan.refusal = "more pixels than a pass takes";
  if (plan.refusal) return plan;
  if (parts == 0) {
    plan.workspace = std::max(conv_workspace(g.convs[0], device), norm_backward_workspace(n, device));
    plan.rest = workspace;
    return plan;
  }
  if (plan.sums) {
    plan.groups = tile_groups(parts);
    plan.tile_sums = pieces.take<float>(parts * 2 * n.x.c);
    float* sums = plan.tile_sums;
    for (GradientPlan& conv : plan.convs) {
      conv.args.sums = sums;
      sums += conv.parts * 2 * n.x.c;
    }
    plan.group_sums = pieces.take<float>(plan.groups * 2 * n.x.c);
  }
  if (n.accumulate) {
    plan.slope = n.slope;
    plan.constant = n.constant;
  } else if (!plan.once) {
    plan.slope = pieces.take<float>(n.x.c);
    plan.constant = pieces.take<float>(n.x.c);
  }
  plan.workspace = pieces.used;
  return plan;
}

Result merge_tiles(const MaskedPlan& plan, const NormGradient& n, StreamHandle stream) {
  const auto channels = static_cast<int>(n.x.c);
  PartialSums sums{plan.tile_sums, plan.parts, channels, n.x.n * n.x.h * n.x.w};
  if (plan.groups) {
    const GroupArgs args{plan.tile_sums, plan.group_sums, 2 * channels, plan.parts};
    const auto blocks = static_cast<unsigned>(ceil_div(args.entries, kPassThreads));
    const int error = launch<group_sums_kernel>(blocks, static_cast<unsigned>(plan.groups), 1, kPassThreads, 0,
                                                static_cast<Stream>(stream), args);
    if (error) return {nullptr, error};
    sums.sums = plan.group_sums;
    sums.parts = plan.groups;
  }
  return run_merge_sums(sums, n.norm, n.dgamma, n.dbeta, plan.slope, plan.constant, n.accumulate, stream);
}

}  // namespace

bool masks_in_place(const MaskedGradient& g, const Device& device) { return plan_masked(g, nullptr, device).parts > 0; }

int64_t masked_gradient_workspace(const MaskedGradient& g, const Device& device) {
  return plan_masked(g, nullptr, device).workspace;
}

Result run_masked_gradient(const MaskedGradient& g, void* workspace, const Device& device, StreamHandle stream) {
  const NormGradient& n = g.norm;
  const MaskedPlan plan = plan_masked(g, workspace, device);
  if (plan.refusal) return {plan.refusal, 0};
  if (plan.parts == 0) {
    const Result result = run_conv(g.convs[0], n.type, device, plan.rest, stream);
    return result.ok() ? run_norm_backward(n, plan.rest, device, stream) : result;
  }
  Result result;
  if (plan.scale) result = run_affine(n.norm, n.x.c, plan.scale, plan.shift, stream);
  for (const GradientPlan& conv : plan.convs)
    if (result.ok()) result = launch_gradient(conv, n.type, device, stream);
  if (result.ok() && plan.sums) result = merge_tiles(plan, n, stream);
  if (!result.ok() || plan.once) return result;
  return run_norm_finish(n, plan.slope, plan.constant, stream);
}

}  // namespace lightops::cuda
