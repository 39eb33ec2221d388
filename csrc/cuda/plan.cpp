#include "plan.h"

#include <algorithm>
#include <initializer_list>

namespace lightops::cuda {
namespace {

constexpr int64_t kIndexLimit = INT64_C(1)
                                << 31;  // images, pixels of an image, channels and blocks are 32-bit in the kernels
// Below this many iterations (128-byte chunks, or groups of taps of one) a split leaves a block less work than its start and the
// joining of sums cost.
constexpr int kIterationsPerSplit = 2;
// Weights of a whole row of the window share a stage where three such stages leave room for the halo.
constexpr int kGroupBytes = 32 * 1024;

using lightops::ceil_div;

Tile flat_tile(int m, int64_t pixels) {
  Tile t{};
  t.tile_h = 1;
  t.tile_w = t.halo_w = t.sub_pitch = t.pitch = t.key_pitch = t.slots = m;
  t.halo_h = 1;
  t.tiles_y = 1;
  t.tiles_x = static_cast<int>(ceil_div(pixels, m));
  set_reciprocals(t);
  return t;
}

bool dense_images(const Nhwc& t) { return t.data == nullptr || t.n == 1 || t.image == t.h * t.w * t.pixel; }

// A pointwise problem sees pixels only: one long row, or one a image where the images are not back to back.
void flatten(View& v, const Nhwc& t, bool whole_batch) {
  v.width = static_cast<int>(whole_batch ? t.n * t.h * t.w : t.h * t.w);
  v.height = 1;
}

// Convolution pixels of a tile and, for the stem, the pixels of the input under their windows.
void place_pixels(Tile& t, int th, int tw, int m, const Geometry& g) {
  t.tile_h = th;
  t.tile_w = tw;
  t.slots = m;
  t.halo_h = (th - 1) * g.stride_h + (g.kernel_h - 1) * g.dilation_h + 1;
  t.halo_w = (tw - 1) * g.stride_w + (g.kernel_w - 1) * g.dilation_w + 1;
  t.sub_pitch = t.pitch = t.key_pitch = t.halo_w;
  set_reciprocals(t);
}

// Elements from line to line of the copy that a gathered tile reads, `least` at least: those at which the 32 neighbouring rows that a
// warp puts together meet the fewest words of one bank.
int copy_pitch(int least, const Tile& t, const Geometry& g, int inner, int element_bytes) {
  const int step = kChunkBytes / element_bytes;
  int best = least, fewest = 33;
  for (int pitch = least; pitch < least + 8 * step; pitch += step) {
    int words[32] = {}, worst = 0;
    for (int r = 0; r < std::min(32, t.tile_h * t.tile_w); ++r) {
      const int at = r / t.tile_w * g.stride_h * pitch + r % t.tile_w * g.stride_w * inner;
      worst = std::max(worst, ++words[at * element_bytes / 4 % 32]);
    }
    if (worst < fewest) fewest = worst, best = pitch;
  }
  return best;
}

// `extra` bytes of shared memory are the loader's.
void plan_tiles(ConvPlan& plan, const ConvProblem& p, const Device& device, int extra) {
  ConvArgs& a = plan.args;
  const ShapeSize size = shape_size(plan.shape);
  const int taps = a.geometry.kernel_h * a.geometry.kernel_w, tables = tables_bytes(size.m, size.n);
  int groups = 1;
  a.tap_group = 1;
  if (plan.load == Load::spatial) {
    const bool whole_row = a.geometry.kernel_w * size.n * kRowBytes <= kGroupBytes;
    const auto choose = [&](int tap_group) {
      a.tap_group = tap_group;
      groups = static_cast<int>(ceil_div(taps, tap_group));
      const int fixed = pipeline_bytes(size, 0, groups, tap_group),
                a_slot = pipeline_bytes(size, 1, groups, tap_group) - fixed;
      const TileLimits limits{
          size.m, std::min(size.max_slots(), (device.shared_limit - tables - extra - fixed) / a_slot), Lines::padded};
      return choose_tile(limits, a.geometry, a.out.height, a.out.width, &a.tile);
    };
    if (!(whole_row && choose(a.geometry.kernel_w)) && !choose(1)) {
      plan.refusal = "the halo of one output pixel does not fit shared memory";
      return;
    }
  } else if (plan.pooled_output) {
    // The largest square of pool outputs whose convolution pixels fit the tile.
    const Geometry& q = a.pool;
    int side = 1;
    const auto conv = [&](int n, int kernel, int stride) { return (n - 1) * stride + kernel; };
    while (conv(side + 1, q.kernel_h, q.stride_h) * conv(side + 1, q.kernel_w, q.stride_w) <= size.m) ++side;
    a.pooled_h = std::min(side, a.out.height);
    a.pooled_w = std::min(side, a.out.width);
    a.by_pooled_w = reciprocal(a.pooled_w);
    a.tile = {};
    place_pixels(a.tile, conv(a.pooled_h, q.kernel_h, q.stride_h), conv(a.pooled_w, q.kernel_w, q.stride_w), size.m,
                 a.geometry);
    if (a.tile.tile_h * a.tile.tile_w > size.m) {
      plan.refusal = "one pool window is larger than the tile";
      return;
    }
    // 7x7 pools of 3x3 at stride 2 need 15 columns. With 16 the 32 rows that a warp gathers are two lines, which copy_pitch keeps apart.
    const int wide = static_cast<int>(round_up(a.tile.tile_w, 16));
    if (a.tile.tile_h * wide <= size.m) {
      a.tile.tile_w = wide;
      set_reciprocals(a.tile);
    }
    a.tile.tiles_y = static_cast<int>(ceil_div(a.out.height, a.pooled_h));
    a.tile.tiles_x = static_cast<int>(ceil_div(a.out.width, a.pooled_w));
  } else if (plan.load == Load::gathered || plan.load == Load::pooled) {
    const int tw = std::min(a.out.width, 16), th = std::min(size.m / tw, a.out.height);
    a.tile = {};
    place_pixels(a.tile, th, tw, size.m, a.geometry);
    a.tile.tiles_y = static_cast<int>(ceil_div(a.out.height, th));
    a.tile.tiles_x = static_cast<int>(ceil_div(a.out.width, tw));
  } else {
    a.tile = flat_tile(size.m, a.out.width);
  }
  if (plan.load == Load::gathered) {
    // A line may start anywhere in its first chunk.
    const int inner = p.planar ? 1 : a.x.channels, elements = kChunkBytes / p.element_bytes;
    const int64_t least = round_up(a.tile.halo_w * inner + (a.x.vector ? elements - 1 : 0), elements);
    a.gather_pitch = copy_pitch(static_cast<int>(least), a.tile, a.geometry, inner, p.element_bytes);
    const int64_t patch = INT64_C(1) * a.tile.halo_h * (p.planar ? a.x.channels : 1) * a.gather_pitch * p.element_bytes;
    if (patch > device.shared_limit) {
      plan.refusal = "the input under a tile of windows does not fit shared memory";
      return;
    }
    extra += static_cast<int>(patch);
  }
  plan.shared = tables + stages_bytes(size, a.tile.slots, groups, a.tap_group, p.element_bytes) + extra;
  a.column_tiles = static_cast<int>(ceil_div(a.out.channels, size.n));
  plan.blocks = static_cast<int64_t>(a.images) * a.tile.tiles_y * a.tile.tiles_x * a.column_tiles;
}

}  // namespace

int element_bytes(DType type) { return type == DType::f32 ? 4 : type == DType::f16 || type == DType::bf16 ? 2 : 0; }

int packed_row(int64_t depth, int bytes) {
  return static_cast<int>(ceil_div(depth, kChunkBytes / bytes) * (kChunkBytes / bytes));
}

View view_of(const Nhwc& t, int bytes) {
  View v{};
  v.data = static_cast<unsigned char*>(t.data);
  v.pixel = t.pixel;
  v.image = t.image;
  v.height = static_cast<int>(t.h);
  v.width = static_cast<int>(t.w);
  v.channels = static_cast<int>(t.c);
  const int chunk = kChunkBytes / bytes;
  const bool near = t.pixel >= 0 && t.pixel * bytes < kIndexLimit;
  v.pitch = near ? static_cast<int>(t.pixel * bytes) : 0;
  v.vector = near && t.c % chunk == 0 && t.pixel % chunk == 0 && (t.n <= 1 || t.image % chunk == 0) &&
             reinterpret_cast<std::uintptr_t>(t.data) % kChunkBytes == 0;
  return v;
}

Geometry geometry_of(const Window& w) {
  return {static_cast<int>(w.kernel[0]),   static_cast<int>(w.kernel[1]),  static_cast<int>(w.stride[0]),
          static_cast<int>(w.stride[1]),   static_cast<int>(w.padding[0]), static_cast<int>(w.padding[1]),
          static_cast<int>(w.dilation[0]), static_cast<int>(w.dilation[1])};
}

PlaceMap place_map(unsigned char* data, int64_t channels, int element_bytes) {
  const int chunk = kChunkBytes / element_bytes;
  return {data, static_cast<int>(channels),
          channels % chunk == 0 && reinterpret_cast<std::uintptr_t>(data) % chunk == 0};
}

ConvPlan plan_conv(const ConvProblem& p, const Device& device) {
  ConvPlan plan;
  ConvArgs& a = plan.args;
  if (p.x.h * p.x.w >= kIndexLimit || p.out.h * p.out.w >= kIndexLimit || p.x.n >= kIndexLimit || p.x.c >= 65536) {
    plan.refusal = "more than 2^31 - 1 pixels an image, or 65535 channels";
    return plan;
  }
  a.x = view_of(p.x, p.element_bytes);
  a.out = view_of(p.out, p.element_bytes);
  if (p.residual.data) a.residual = view_of(p.residual, p.element_bytes);
  a.geometry = geometry_of(p.window);
  a.scale = static_cast<const float*>(p.scale);
  a.shift = static_cast<const float*>(p.shift);
  a.pre_act = static_cast<int>(p.pre_act);
  a.weight = static_cast<const unsigned char*>(p.weight);
  a.bias = static_cast<const float*>(p.bias);
  a.act = static_cast<int>(p.act);
  a.moments = p.moments;
  a.counts = p.counts;
  a.images = static_cast<int>(p.x.n);
  const Geometry& g = a.geometry;
  const int taps = g.kernel_h * g.kernel_w;
  const bool plain =
      taps == 1 && g.stride_h == 1 && g.stride_w == 1 && g.pad_h == 0 && g.pad_w == 0 && p.lattice.width == 0;
  plan.pooled_output = p.pooled;
  plan.load = p.average_pool ? Load::pooled : p.gathered ? Load::gathered : plain ? Load::pointwise : Load::spatial;
  const int64_t depth = p.gathered ? static_cast<int64_t>(taps) * p.x.c : p.x.c;
  a.row_elements = packed_row(depth, p.element_bytes);
  a.chunks = static_cast<int>(ceil_div(depth, kRowBytes / p.element_bytes));
  a.steps = static_cast<int>(ceil_div(depth * p.element_bytes, kStepBytes));
  if (taps > kMaxTaps) {
    plan.refusal = "a window of more than 128 taps";
    return plan;
  }
  a.gather_channel = p.planar ? p.x.h * p.x.w : 1;
  a.gather_column = p.planar ? 1 : p.x.pixel;
  a.gather_row = p.planar ? p.x.w : p.x.w * p.x.pixel;
  if (p.gathered) {
    const int elements = kChunkBytes / p.element_bytes;
    a.x.vector = (p.planar || p.x.pixel == p.x.c) && a.gather_row % elements == 0 &&
                 (p.x.n <= 1 || p.x.image % elements == 0) && (!p.planar || (p.x.h * p.x.w) % elements == 0) &&
                 reinterpret_cast<std::uintptr_t>(p.x.data) % kChunkBytes == 0;
  }
  if (p.pooled) {
    a.pool = geometry_of(p.pool);
    a.conv_height = static_cast<int>(p.window.out(0, p.x.h));
    a.conv_width = static_cast<int>(p.window.out(1, p.x.w));
    a.places = place_map(p.places, p.out.c, p.element_bytes);
  }
  if (plan.load == Load::pointwise) {
    const bool whole =
        dense_images(p.x) && dense_images(p.out) && dense_images(p.residual) && p.x.n * p.x.h * p.x.w < kIndexLimit;
    if (whole) a.images = 1;
    flatten(a.x, p.x, whole);
    flatten(a.out, p.out, whole);
    flatten(a.residual, p.out, whole);
  }
  // Behind the stages: scale and shift of every channel, or the gather table.
  const int padded = a.chunks * (kRowBytes / p.element_bytes);
  const int extra = plan.load == Load::gathered ? padded * 4 : p.scale || p.average_pool ? padded * 8 : 0;

  // The first shape that fits shared memory and fills the chip, else the last that fits.
  const bool half = p.element_bytes == 2;
  const auto choose = [&](std::initializer_list<Shape> shapes) {
    ConvPlan best;
    best.refusal = "the channels' scale and shift do not fit shared memory beside the tile";
    for (const Shape shape : shapes) {
      const bool stands_in = shape == Shape::compact && !best.refusal && best.shape == Shape::small;
      if (stands_in || (shape == Shape::tiny && !p.tiny)) continue;  // compact is small where that does not fit
      ConvPlan trial = plan;
      trial.shape = shape;
      plan_tiles(trial, p, device, extra);
      if (trial.refusal == nullptr && trial.shared <= device.shared_limit) best = trial;
      else if (best.refusal && trial.refusal) best.refusal = trial.refusal;
      if (best.refusal == nullptr && best.blocks >= device.multiprocessors) break;
    }
    if (best.refusal == nullptr || shapes.size() == 1) return best;
    ConvPlan last = plan;
    last.shape = Shape::compact;
    plan_tiles(last, p, device, extra);
    return last.refusal == nullptr && last.shared <= device.shared_limit ? last : best;
  };
  switch (plan.load) {
    case Load::pointwise:
      plan = half && a.out.channels > 64 ? choose({Shape::wide, Shape::mid, Shape::small, Shape::compact, Shape::tiny})
                                         : choose({Shape::mid, Shape::small, Shape::compact, Shape::tiny});
      break;
    case Load::spatial:
      plan = a.out.channels > 32 ? choose({Shape::mid, Shape::compact, Shape::tiny})
             : p.tiny            ? choose({Shape::narrow, Shape::tiny})
                                 : choose({Shape::narrow, Shape::compact});
      break;
    case Load::pooled: plan = choose({Shape::low}); break;
    default:
      // Pools overlap: 256 rows hold 7x7 pools of 3x3 at stride 2 with 15% of their pixels computed twice, 128 rows 5x5 with 21%.
      plan = half && p.pooled ? choose({Shape::tall, Shape::mid}) : choose({Shape::mid, Shape::compact});
  }
  if (plan.refusal) return plan;
  if (plan.blocks >= kIndexLimit) plan.refusal = "more than 2^31 - 1 blocks";

  // A grid that leaves multiprocessors idle splits the reduction; the last block of a tile adds the parts in order.
  const ShapeSize size = shape_size(plan.shape);
  const int64_t iterations = a.chunks * ceil_div(plan.load == Load::spatial ? taps : 1, a.tap_group);
  const int64_t room = plan.blocks ? device.multiprocessors / plan.blocks : 0;
  if (!p.pooled && p.lattice.width == 0 && room >= 2 && iterations >= 2 * kIterationsPerSplit) {
    const int splits = static_cast<int>(std::min<int64_t>({room, iterations / kIterationsPerSplit, 16}));
    a.iterations_per_split = static_cast<int>(ceil_div(iterations, splits));
    a.splits = plan.splits = static_cast<int>(ceil_div(iterations, a.iterations_per_split));
    plan.workspace = arrivals_bytes(device) + plan.splits * plan.blocks * size.m * size.n * 4;
  } else {
    a.iterations_per_split = static_cast<int>(iterations);
  }
  return plan;
}

StationaryPlan plan_stationary(const ConvProblem& p, const Device& device) {
  StationaryPlan plan;
  const bool possible = p.element_bytes == 2 && p.out.c <= kStationaryN && p.scale == nullptr &&
                        p.pre_act == Act::none && p.residual.data == nullptr && !p.average_pool && !p.gathered &&
                        !p.pooled && p.window.stride[0] == 1 && p.window.stride[1] == 1 &&
                        p.window.kernel[0] * p.window.kernel[1] <= kMaxTaps;
  if (!possible) return plan;
  StationaryArgs& s = plan.args;
  s.conv = plan_conv(p, device).args;
  ConvArgs& a = s.conv;
  if (!a.x.vector || INT64_C(1) * p.x.h * p.x.w >= kIndexLimit || p.x.n >= kIndexLimit) return plan;
  const int taps = a.geometry.kernel_h * a.geometry.kernel_w;
  const int fixed = tables_bytes(kStationaryM, kStationaryN) + kStationaryM * kStationaryN * 4 +
                    a.chunks * taps * kStationaryN * kRowBytes;
  const int slots = std::min((device.shared_limit - fixed) / (kStationaryStages * kRowBytes),
                             kStationaryRows * kStationaryThreads / kRowChunks);
  if (slots <= 0 || !choose_tile({kStationaryM, slots, Lines::padded}, a.geometry, a.out.height, a.out.width, &a.tile))
    return plan;
  s.tile_images = 1;
  if (a.tile.tiles_y == 1 && a.tile.tiles_x == 1) {
    a.tile = halo_tile(a.out.height, a.out.width, a.geometry, Lines::padded);
    a.tile.tiles_y = a.tile.tiles_x = 1;
    s.tile_images =
        std::max(1, std::min({kStationaryM / (a.out.height * a.out.width), slots / a.tile.slots, a.images}));
  }
  s.image_slots = a.tile.slots;
  a.tile.slots *= s.tile_images;
  const int64_t tiles = ceil_div(static_cast<int64_t>(a.images), s.tile_images) * a.tile.tiles_y * a.tile.tiles_x;
  if (a.tile.slots > slots || tiles >= kIndexLimit - device.multiprocessors) return plan;
  s.tiles = static_cast<int>(tiles);
  s.grid = static_cast<int>(std::min<int64_t>(tiles, device.multiprocessors));
  plan.shared = fixed + kStationaryStages * a.tile.slots * kRowBytes;
  plan.fits = true;
  return plan;
}

}  // namespace lightops::cuda
