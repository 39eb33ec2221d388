#include "plan_pair.h"

#include <algorithm>

namespace lightops::cuda {
namespace {

// Fewer chunks are not worth joining: a part of them more costs a way to memory and back, about what two chunks take to be fetched,
// convolved and multiplied one after the other.
constexpr int kChunksToSplit = 3;
constexpr int kMostSplits = 8;  // whose sums, 16 KB each of 32 x 128 outputs, one block reads

int pipeline_of_first(const PairSize& s, int slots) {
  return pipeline_bytes({s.m, s.first_n, s.first_warps_m, s.first_warps_n, s.first_stages, 0}, slots, 1, 1);
}

// Lays out shared memory for blocks that keep `chunks` chunks of the tile. `apart`: the ring of the second product's weights behind
// the producer's stages instead of in their place. False when it does not fit.
bool lay_out(PairPlan& plan, const PairProblem& p, int chunks, bool apart, const Device& device) {
  ResidentArgs& a = plan.args;
  const PairSize s = pair_size(plan.shape);
  const bool depthwise = p.first == First::depthwise;
  const int taps = static_cast<int>(p.window.kernel[0] * p.window.kernel[1]);
  const int second = s.m * staged_pitch(s.n, p.element_bytes) + s.stages * a.tap_group * s.n * kRowBytes;
  const int fixed = tables_bytes(s.m, s.n) + chunks * (depthwise ? s.m : a.first.tile.slots) * kRowBytes;
  const int left = device.shared_limit - fixed;
  int stages = 0, first = 0;
  if (depthwise) {
    // As many stages as the second product leaves room for anyway, two at least.
    const int stage = (a.tile.slots + taps) * kRowBytes;
    stages = std::clamp(std::min((apart ? left - second : second) / stage, chunks), 2, 4);
    first = stages * stage;
  } else {
    const int pairs = a.first.scale ? a.first.chunks * (kRowBytes / p.element_bytes) * 8 : 0;
    first = pipeline_of_first(s, a.first.tile.slots) + pairs;
  }
  const int scratch = apart ? first + second : std::max(first, second);
  if (left < scratch) return false;
  a.first_stages = stages;
  a.chunks_per_split = chunks;
  a.ring_offset = apart ? first : 0;
  plan.shared = fixed + scratch;
  return true;
}

// Fills tile and shared memory for one shape; false when it does not fit.
bool try_pair(PairPlan& plan, PairShape shape, const PairProblem& p, const Device& device) {
  ResidentArgs& a = plan.args;
  const PairSize s = pair_size(shape);
  const int taps = static_cast<int>(p.window.kernel[0] * p.window.kernel[1]);
  a.tap_group = p.first == First::squeeze ? static_cast<int>(p.window.kernel[1]) : 1;
  const int out_h = a.group[0].out.height, out_w = a.group[0].out.width;
  if (p.first == First::depthwise) {
    const int left = device.shared_limit - tables_bytes(s.m, s.n) - a.chunks * s.m * kRowBytes;
    const int slots =
        std::min(left / (2 * kRowBytes) - taps, depthwise_halo_rows(s.threads()) * s.threads() / kRowChunks);
    if (!choose_tile({s.m, slots, Lines::padded}, a.first.geometry, out_h, out_w, &a.tile)) return false;
    a.first.tile = a.tile;
  } else {
    if (!choose_tile({s.m, s.m, Lines::keyed}, a.geometry, out_h, out_w, &a.tile)) return false;
    Tile& rows = a.first.tile;
    rows = a.tile;
    rows.tile_h = rows.halo_h = a.tile.halo_h;
    rows.tile_w = rows.halo_w = rows.sub_pitch = rows.pitch = a.tile.halo_w;
    set_reciprocals(rows);
  }
  plan.shape = shape;
  if (!lay_out(plan, p, a.chunks, false, device)) return false;
  a.units = 0;
  for (int g = 0; g < p.outputs; ++g) {
    a.group[g].column_tiles = static_cast<int>(ceil_div(p.output[g].out.c, s.n));
    a.units += a.group[g].column_tiles;
  }
  plan.blocks = static_cast<int64_t>(a.first.images) * a.tile.tiles_y * a.tile.tiles_x;
  return true;
}

}  // namespace

PairPlan plan_pair(const PairProblem& p, const Device& device) {
  PairPlan plan;
  ResidentArgs& a = plan.args;
  const PairOutput& main = p.output[0];
  if (p.x.h * p.x.w >= INT64_C(1) << 31 || main.out.h * main.out.w >= INT64_C(1) << 31 || p.x.c >= 65536 ||
      p.x.n >= 1 << 30) {
    plan.refusal = "more than 2^31 - 1 pixels an image, or 65535 channels";
    return plan;
  }
  const int row = kRowBytes / p.element_bytes;
  ConvArgs& f = a.first;
  f.x = view_of(p.x, p.element_bytes);
  f.images = static_cast<int>(p.x.n);
  f.weight = static_cast<const unsigned char*>(p.first_weight);
  f.row_elements = packed_row(p.x.c, p.element_bytes);
  f.bias = static_cast<const float*>(p.first_bias);
  f.act = static_cast<int>(p.first_act);
  f.scale = static_cast<const float*>(p.scale);
  f.shift = static_cast<const float*>(p.shift);
  f.pre_act = static_cast<int>(p.pre_act);
  f.chunks = static_cast<int>(ceil_div(p.x.c, row));
  f.steps = static_cast<int>(ceil_div(p.x.c * p.element_bytes, kStepBytes));
  f.tap_group = 1;
  f.out.channels = static_cast<int>(p.middle);
  f.out.height = static_cast<int>(main.out.h);
  f.out.width = static_cast<int>(main.out.w);
  plan.first = p.first;
  f.geometry = p.first == First::depthwise ? geometry_of(p.window) : geometry_of(Window{});
  a.geometry = p.first == First::squeeze ? geometry_of(p.window) : geometry_of(Window{});
  a.chunks = static_cast<int>(ceil_div(p.middle, row));
  a.steps = static_cast<int>(ceil_div(p.middle * p.element_bytes, kStepBytes));
  if (p.window.kernel[0] * p.window.kernel[1] > kMaxTaps) {
    plan.refusal = "a window of more than 128 taps";
    return plan;
  }
  a.act = static_cast<int>(p.act);
  for (int g = 0; g < p.outputs; ++g) {
    const PairOutput& o = p.output[g];
    ResidentGroup& to = a.group[g];
    to.weight = static_cast<const unsigned char*>(o.weight);
    to.bias = static_cast<const float*>(o.bias);
    to.out = view_of(o.out, p.element_bytes);
    if (o.residual.data) to.residual = view_of(o.residual, p.element_bytes);
    to.row_elements = packed_row(p.middle, p.element_bytes);
    to.taps = o.taps;
    to.first_tap = o.first_tap;
  }

  bool fits = false;
  if (p.first == First::depthwise) {
    // The largest tile that fits with every channel resident, twice a multiprocessor or with twice the warps; a smaller one where the
    // large would leave the chip idle.
    const PairShape shapes[] = {PairShape::pixels128, PairShape::deep128, PairShape::pixels64, PairShape::pixels32};
    for (const PairShape shape : shapes) {
      if (fits && plan.blocks >= device.multiprocessors) break;
      if (shape == PairShape::deep128 && p.element_bytes == 4) continue;  // not built: it would spill
      const PairPlan before = plan;
      const bool fit = try_pair(plan, shape, p, device) &&
                       (shape != PairShape::pixels128 || plan.shared * 2 + 2048 <= device.shared_limit);
      if (!fit) plan = before;
      fits = fits || fit;
    }
    if (!fits) plan.refusal = "a tile with all its channels does not fit shared memory";
  } else {
    const bool narrow = p.middle <= 32;
    const PairShape shape = p.element_bytes == 2 ? narrow ? PairShape::fire32 : PairShape::fire64
                            : narrow             ? PairShape::fire32_wide
                                                 : PairShape::fire64_wide;
    fits = try_pair(plan, shape, p, device);
    if (p.element_bytes == 2 && (!fits || plan.blocks * plan.args.units < device.multiprocessors)) {
      PairPlan more = plan;
      if (try_pair(more, narrow ? PairShape::fire32_ahead : PairShape::fire64_ahead, p, device))
        plan = more, fits = true;
    }
    if (!fits) plan.refusal = "the squeeze tile does not fit shared memory";
  }
  if (plan.blocks >= INT64_C(1) << 31) plan.refusal = "more than 2^31 - 1 blocks";
  if (plan.refusal || plan.blocks == 0) return plan;
  // Column tiles of one spatial tile go to several blocks only where the grid would leave multiprocessors idle.
  plan.shares = static_cast<int>(std::clamp<int64_t>(device.multiprocessors / plan.blocks, 1, std::max(a.units, 1)));
  a.units_per_block = static_cast<int>(ceil_div(a.units, plan.shares));
  plan.shares = static_cast<int>(ceil_div(a.units, a.units_per_block));
  // Where multiprocessors are idle still, the channels between the two convolutions are shared out: MobileNet's pairs at 7x7 took 16
  // chunks one after the other through both, on 16 blocks.
  const int64_t grid = plan.blocks * plan.shares, room = device.multiprocessors / std::max<int64_t>(grid, 1);
  if (p.first == First::depthwise && a.units_per_block == 1 && room >= 2 && a.chunks >= kChunksToSplit) {
    const int64_t splits = std::min<int64_t>({room, a.chunks, kMostSplits});
    const int chunks = static_cast<int>(ceil_div(a.chunks, splits));
    if (lay_out(plan, p, chunks, false, device)) {
      a.first.splits = plan.splits = static_cast<int>(ceil_div(a.chunks, chunks));
      const PairSize s = pair_size(plan.shape);
      plan.workspace = arrivals_bytes(device) + plan.splits * plan.blocks * a.units * s.m * s.n * 4;
    }
  }
  // One block a multiprocessor has its shared memory: the weights need not wait for the tile.
  if (grid * plan.splits <= device.multiprocessors) lay_out(plan, p, a.chunks_per_split, true, device);
  return plan;
}

}  // namespace lightops::cuda
