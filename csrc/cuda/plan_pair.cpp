#include "plan_pair.h"

#include <algorithm>

namespace lightops::cuda {
namespace {

int pipeline_of_first(const PairSize& s, int slots) {
  return pipeline_bytes({s.m, s.first_n, s.first_warps_m, s.first_warps_n, s.first_stages, 0}, slots, 1);
}

// Output pixels only: the widest rows, since nothing is shared between them.
Tile pixel_tile(int m, int out_h, int out_w) {
  Tile t{};
  t.tile_w = std::min(out_w, out_h == 1 ? m : 16);
  t.tile_h = std::max(1, std::min(m / std::max(t.tile_w, 1), out_h));
  t.halo_h = t.tile_h;
  t.halo_w = t.sub_pitch = t.pitch = t.tile_w;
  t.slots = t.tile_h * t.tile_w;
  t.tiles_y = static_cast<int>(ceil_div(out_h, t.tile_h));
  t.tiles_x = static_cast<int>(ceil_div(out_w, std::max(t.tile_w, 1)));
  return t;
}

// Fills tile and shared memory for one shape; false when it does not fit.
bool try_pair(PairPlan& plan, PairShape shape, const PairProblem& p, const Device& device) {
  ResidentArgs& a = plan.args;
  const PairSize s = pair_size(shape);
  const int staged = s.m * staged_pitch(s.n, p.element_bytes), ring = s.stages * s.n * kRowBytes;
  const int taps = static_cast<int>(p.window.kernel[0] * p.window.kernel[1]);
  const int out_h = a.group[0].out.height, out_w = a.group[0].out.width;
  if (p.first != First::squeeze) {
    const int rows = a.chunks * s.m * kRowBytes;
    const int left = device.shared_limit - rows - ring;
    const int pairs = a.first.scale ? a.first.chunks * (kRowBytes / p.element_bytes) * 8 : 0;
    int scratch = pairs;
    if (p.first == First::depthwise) {
      const int slots = std::min(left / (2 * kRowBytes) - taps, kDepthwiseHaloRows * s.threads() / kRowChunks);
      if (!choose_tile({s.m, slots, true}, a.first.geometry, out_h, out_w, &a.tile)) return false;
      scratch = 2 * (a.tile.slots + taps) * kRowBytes;
    } else {
      a.tile = pixel_tile(s.m, out_h, out_w);
    }
    scratch = std::max(staged, scratch);
    if (left < scratch) return false;
    a.first.tile = a.tile;
    if (p.first != First::depthwise) a.first.tile.slots = s.m;  // every row is filled, with zeros past the tile
    plan.shared = rows + ring + scratch;
  } else {
    if (!choose_tile({s.m, s.m, false}, a.geometry, out_h, out_w, &a.tile)) return false;
    Tile& rows = a.first.tile;
    rows = a.tile;
    rows.tile_h = rows.halo_h = a.tile.halo_h;
    rows.tile_w = rows.halo_w = rows.sub_pitch = rows.pitch = a.tile.halo_w;
    const int pairs = a.first.scale ? a.first.chunks * (kRowBytes / p.element_bytes) * 8 : 0;
    plan.shared = a.chunks * rows.slots * kRowBytes + ring + std::max(staged, pipeline_of_first(s, rows.slots) + pairs);
    if (plan.shared > device.shared_limit) return false;
  }
  plan.shape = shape;
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
  if (p.x.h * p.x.w >= INT64_C(1) << 31 || main.out.h * main.out.w >= INT64_C(1) << 31 || p.x.c >= 65536 || p.x.n >= 1 << 30) {
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
  f.out.channels = static_cast<int>(p.middle);
  f.out.height = static_cast<int>(main.out.h);
  f.out.width = static_cast<int>(main.out.w);
  plan.first = p.first;
  f.geometry = p.first == First::depthwise ? geometry_of(p.window) : geometry_of(Window{});
  a.geometry = p.first == First::squeeze ? geometry_of(p.window) : geometry_of(Window{});
  a.chunks = static_cast<int>(ceil_div(p.middle, row));
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

  if (p.first == First::channels) {
    // Pixels are all alike: one long row.
    const bool dense = p.x.image == p.x.h * p.x.w * p.x.pixel && main.out.image == main.out.h * main.out.w * main.out.pixel &&
                       (!main.residual.data || main.residual.image == main.out.h * main.out.w * main.residual.pixel);
    const bool whole = dense && p.x.n * p.x.h * p.x.w < INT64_C(1) << 31;
    const auto flat = static_cast<int>(whole ? p.x.n * p.x.h * p.x.w : p.x.h * p.x.w);
    if (whole) f.images = 1;
    for (View* v : {&f.x, &a.group[0].out, &a.group[0].residual}) v->height = 1, v->width = flat;
  }
  bool fits = false;
  if (p.first != First::squeeze) {
    // The largest tile that fits with every channel resident; a smaller one where the large would leave the chip idle.
    const PairShape shapes[] = {PairShape::pixels128, PairShape::pixels64, PairShape::pixels32};
    for (const PairShape shape : shapes)
      if ((!fits || plan.blocks < device.multiprocessors) && try_pair(plan, shape, p, device)) fits = true;
    if (!fits) plan.refusal = "a tile with all its channels does not fit shared memory";
  } else if (p.outputs == 2) {
    fits = try_pair(plan, p.middle <= 32 ? PairShape::fire32 : PairShape::fire64, p, device);
    if (!fits) plan.refusal = "the squeeze tile does not fit shared memory";
  } else {
    // 256 rows hold a whole 14x14 map with its border; half types only (fp32 would need twice the memory).
    fits = p.element_bytes == 2 && main.out.h > 8 && try_pair(plan, PairShape::dense256, p, device) &&
           plan.blocks >= device.multiprocessors;
    if (!fits) fits = try_pair(plan, PairShape::dense128, p, device);
    if (!fits) plan.refusal = "the bottleneck tile does not fit shared memory";
  }
  if (plan.blocks >= INT64_C(1) << 31) plan.refusal = "more than 2^31 - 1 blocks";
  if (plan.refusal || plan.blocks == 0) return plan;
  // Column tiles of one spatial tile go to several blocks only where the grid would leave multiprocessors idle.
  plan.shares = static_cast<int>(std::clamp<int64_t>(device.multiprocessors / plan.blocks, 1, std::max(a.units, 1)));
  a.units_per_block = static_cast<int>(ceil_div(a.units, plan.shares));
  plan.shares = static_cast<int>(ceil_div(a.units, a.units_per_block));
  return plan;
}

bool prefer_resident(const PairPlan& plan, const Device& device) {
  constexpr int kWideColumns = 128;  // of the streaming kernel's widest tile
  return plan.refusal == nullptr && plan.args.group[0].out.channels > kWideColumns && plan.blocks >= device.multiprocessors;
}

double fused_traffic_ratio(const PairPlan& plan, const PairProblem& p) {
  const Tile& t = plan.args.tile;
  const double pixels = static_cast<double>(p.x.h) * p.x.w;
  const double halo = std::min<double>(t.halo_h, p.x.h) * std::min<double>(t.halo_w, p.x.w) * t.tiles_y * t.tiles_x / pixels;
  const double fused = static_cast<double>(p.x.c) * halo * plan.shares;
  const double apart = static_cast<double>(p.x.c) + p.middle + p.middle * 1.3;  // 1.3: halo of the 3x3 over an 8x16 tile
  return fused / apart;
}

}  // namespace lightops::cuda
