#include "training/wgrad_plan.h"

#include <algorithm>
#include <cmath>

namespace lightops::cuda {
namespace {

constexpr int64_t kIndexLimit = INT64_C(1) << 31;
constexpr Geometry kPoint{1, 1, 1, 1, 0, 0, 1, 1};

bool dense_images(const Nhwc& t) { return t.n == 1 || t.image == t.h * t.w * t.pixel; }

WgradShape shape_of(const WgradProblem& p, int taps, bool half) {
  if (p.average_pool) return WgradShape::pooled;
  if (taps == 1) return half && std::max(p.x.c, p.dy.c) > 64 ? WgradShape::wide : WgradShape::small;
  if (p.x.c <= 8) return WgradShape::stem;
  return half && p.x.c <= 32 && p.dy.c > 32 ? WgradShape::tall : WgradShape::spatial;
}

// A row of pixels whatever the map: the whole batch, or one a image where the images are not back to back.
void flatten(WgradArgs& a, const WgradProblem& p, int pixels, int* images) {
  const bool whole = dense_images(p.x) && dense_images(p.dy) && p.x.n * p.x.h * p.x.w < kIndexLimit;
  if (whole) *images = 1;
  a.x.height = a.dy.height = 1;
  a.x.width = a.dy.width = static_cast<int>(whole ? p.x.n * p.x.h * p.x.w : p.x.h * p.x.w);
  a.tile = halo_tile(1, pixels, kPoint, Lines::as_they_are);
  a.tile.tiles_y = 1;
  a.tile.tiles_x = static_cast<int>(ceil_div(a.x.width, pixels));
}

// A split costs a partial gradient written and read, and saves idle multiprocessors: with one block a multiprocessor the time is
// about input / (blocks * splits) + 2 * splits * partial / multiprocessors in bytes of one multiprocessor's share of the bandwidth.
int64_t best_splits(int64_t input, int64_t partial, int64_t blocks, int64_t tiles, int multiprocessors) {
  const double least = std::sqrt(static_cast<double>(input) * multiprocessors / (2.0 * blocks * partial));
  const int64_t room = std::max<int64_t>(1, 2 * multiprocessors / blocks);
  return std::max<int64_t>(1, std::min({static_cast<int64_t>(least), room, tiles}));
}

}  // namespace

WgradPlan plan_wgrad(const WgradProblem& p, const Device& device) {
  WgradPlan plan;
  WgradArgs& a = plan.args;
  const int bytes = element_bytes(p.type);
  if (bytes == 0) {
    plan.refusal = "the CUDA kernels take float16, bfloat16 and float32";
    return plan;
  }
  const int64_t window = p.window.kernel[0] * p.window.kernel[1];
  if (p.x.h * p.x.w >= kIndexLimit || p.x.n >= kIndexLimit || p.x.c >= 65536 ||
      window * p.x.c * p.dy.c >= kIndexLimit) {
    plan.refusal = "more than 2^31 - 1 pixels an image or weights, or 65535 channels";
    return plan;
  }
  if (window > kMaxTaps) {
    plan.refusal = "a window of more than 128 taps";
    return plan;
  }
  a.x = view_of(p.x, bytes);
  a.dy = view_of(p.dy, bytes);
  a.x_row = p.x.row();
  a.geometry = geometry_of(p.window);
  a.scale = p.scale;
  a.shift = p.shift;
  a.pre_act = static_cast<int>(p.pre_act);
  a.taps = static_cast<int>(window);
  int images = static_cast<int>(p.x.n);

  Geometry& g = a.geometry;
  if (a.taps == 1 && g.pad_h == 0 && g.pad_w == 0 && !p.average_pool && (g.stride_h > 1 || g.stride_w > 1)) {
    // One tap, strided: a dense map of every stride-th pixel.
    a.x_row *= g.stride_h;
    a.x.pixel *= g.stride_w;
    a.x.height = a.dy.height;
    a.x.width = a.dy.width;
    g = kPoint;
  }
  plan.shape = shape_of(p, a.taps, bytes == 2);
  const WgradSize size = wgrad_size(plan.shape, bytes);
  const bool plain = a.taps == 1 && p.window.stride[0] == 1 && p.window.stride[1] == 1 && g.pad_h == 0 && g.pad_w == 0;
  const int copies = p.average_pool ? 4 : 1;
  if (p.average_pool) {
    choose_tile({size.pixels, size.pixels, Lines::as_they_are}, kPoint, a.dy.height, a.dy.width, &a.tile);
  } else if (plain) {
    flatten(a, p, size.pixels, &images);
  } else {
    const int fixed = wgrad_tables_bytes(size, 0, bytes) + size.stages * wgrad_stage_bytes(size, 0, 1, bytes);
    const int slot = 4 + size.stages * size.in() * bytes;
    // Slots and coordinates share words of 16 bits each.
    const int slots = std::min((device.shared_limit - fixed) / slot, 65535);
    if (slots <= 0 || !choose_tile({size.pixels, slots, Lines::padded}, g, a.dy.height, a.dy.width, &a.tile)) {
      plan.refusal = "the halo of one output pixel does not fit shared memory";
      return plan;
    }
  }
  plan.shared = wgrad_tables_bytes(size, a.tile.slots, bytes) +
                size.stages * wgrad_stage_bytes(size, a.tile.slots, copies, bytes);
  a.out_tiles = static_cast<int>(ceil_div(p.dy.c, size.out()));
  a.in_tiles = static_cast<int>(ceil_div(p.x.c, size.in()));
  a.tap_groups = static_cast<int>(ceil_div(a.taps, size.taps * size.warps_t));
  a.taps_a_block = static_cast<int>(ceil_div(a.taps, a.tap_groups));
  a.taps_a_warp = static_cast<int>(ceil_div(a.taps_a_block, size.warps_t));
  plan.blocks = INT64_C(1) * a.out_tiles * a.in_tiles * a.tap_groups;
  const int64_t tiles = INT64_C(1) * images * a.tile.tiles_y * a.tile.tiles_x;
  if (tiles >= kIndexLimit || plan.blocks >= kIndexLimit) {
    plan.refusal = "more than 2^31 - 1 tiles";
    return plan;
  }
  a.tiles = static_cast<int>(tiles);
  if (tiles == 0 || plan.blocks == 0) return plan;
  const int64_t input = (p.x.n * p.x.h * p.x.w * p.x.c + p.dy.n * p.dy.h * p.dy.w * p.dy.c) * bytes;
  const int64_t partial = window * p.x.c * p.dy.c * 4;
  const int64_t splits = best_splits(input, partial, plan.blocks, tiles, device.multiprocessors);
  a.tiles_a_split = static_cast<int>(ceil_div(tiles, splits));
  plan.splits = static_cast<int>(ceil_div(tiles, a.tiles_a_split));
  plan.workspace = plan.splits * partial;
  return plan;
}

}  // namespace lightops::cuda
