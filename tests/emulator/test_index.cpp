// Index arithmetic of the kernels and the planner around 2^31 and 2^33: overflow would be undefined behaviour, which the
// sanitizer stops at, or a wrong number, which a check stops at.
#include <cstdio>
#include <cstdlib>

#include "addressing.cuh"
#include "plan_pair.h"

using namespace lightops;
using namespace lightops::cuda;

#define CHECK(condition)                                  \
  do {                                                    \
    if (!(condition)) {                                   \
      std::printf("line %d: %s\n", __LINE__, #condition); \
      std::exit(1);                                       \
    }                                                     \
  } while (false)

constexpr int64_t kTwo31 = INT64_C(1) << 31;

void offsets() {
  View v{};
  v.pixel = 2048;
  v.image = kTwo31 + 8;
  CHECK(pixel_offset(v, 3, 5) == 3 * (kTwo31 + 8) + 5 * 2048);
  CHECK(pixel_offset(v, 0, kTwo31 - 1) == (kTwo31 - 1) * 2048);  // 2^42
  v.image = INT64_C(1) << 33;
  CHECK(pixel_offset(v, 7, 1) == (INT64_C(7) << 33) + 2048);
  Tile t{};
  t.tile_h = 8, t.tile_w = 16, t.tiles_y = 1 << 12, t.tiles_x = 1 << 12;
  const TilePlace last = place_tile(t, 0x7fffffff);
  CHECK(last.x == ((1 << 12) - 1) * 16 && last.y == ((1 << 12) - 1) * 8 && last.image == 127);
}

Nhwc tensor(int64_t n, int64_t h, int64_t w, int64_t c) {
  static unsigned char somewhere[64];
  return {somewhere, n, h, w, c, c, h * w * c};
}

ConvPlan pointwise(int64_t n, int64_t h, int64_t w, int64_t c, int64_t o) {
  ConvProblem p;
  p.element_bytes = 2;
  p.x = tensor(n, h, w, c);
  p.out = tensor(n, h, w, o);
  return plan_conv(p, Device{132, 227 * 1024, false});
}

void planner() {
  // One row of 2^31 - 1 pixels is the last that is flattened; one pixel more goes image by image.
  const ConvPlan flat = pointwise(1, 1, kTwo31 - 1, 8, 8);
  CHECK(flat.refusal == nullptr && flat.args.images == 1 && flat.args.x.width == kTwo31 - 1);
  CHECK(flat.blocks == (kTwo31 - 1 + 127) / 128);
  const ConvPlan per_image = pointwise(2, 1 << 15, 1 << 15, 8, 8);
  CHECK(per_image.refusal == nullptr && per_image.args.images == 2 && per_image.args.x.width == 1 << 30);
  CHECK(pointwise(1, 1 << 16, 1 << 15, 8, 8).refusal != nullptr);  // 2^31 pixels an image
  CHECK(pointwise(1, 4, 4, 65536, 8).refusal != nullptr);
  // The workspace of a split counts bytes in 64 bits.
  ConvProblem p;
  p.element_bytes = 2;
  p.x = tensor(1, 1, 64, 4096);
  p.out = tensor(1, 1, 64, 1 << 20);
  const ConvPlan split = plan_conv(p, Device{1 << 20, 227 * 1024, false});
  CHECK(split.splits > 1 && split.workspace > split.splits * INT64_C(64) * (1 << 20) * 4);
}

// Every plan's tile covers the map, fits its limits, and its halo rows are what its pixels read.
void tiles() {
  for (int k = 1; k <= 5; k += 2)
    for (int stride = 1; stride <= 2; ++stride)
      for (int h = 1; h <= 60; h += 7)
        for (int w = 1; w <= 60; w += 5) {
          const Geometry g{k, k, stride, stride, k / 2, k / 2, 1, 1};
          const TileLimits limits{128, 384, Lines::padded};
          Tile t{};
          CHECK(choose_tile(limits, g, h, w, &t));
          CHECK(t.tile_h * t.tile_w <= 128 && t.slots <= 384);
          CHECK(t.tile_h * t.tiles_y >= h && t.tile_w * t.tiles_x >= w);
          CHECK(t.tile_h * (t.tiles_y - 1) < h && t.tile_w * (t.tiles_x - 1) < w);
          const int last = (halo_place(t, g, t.tile_h * t.tile_w - 1) + tap_place(t, g, k * k - 1)) / kRowBytes;
          CHECK(last < t.slots);
        }
}

// Eight neighbouring outputs of a tile with keys of its own read eight groups of banks, whatever the width, at every tap.
void keys() {
  const Geometry g{3, 3, 1, 1, 1, 1, 1, 1};
  for (int h = 1; h <= 60; h += 7)
    for (int w = 1; w <= 60; ++w) {
      Tile t{};
      CHECK(choose_tile({256, 256, Lines::keyed}, g, h, w, &t));
      for (int tap = 0; tap < 9; ++tap)
        for (int r = 0; r + 8 <= t.tile_h * t.tile_w; r += 8) {
          int groups = 0;
          for (int i = 0; i < 8; ++i)
            groups |= 1 << place_offset(halo_place(t, g, r + i) + tap_place(t, g, tap), 0) % kRowBytes / kChunkBytes;
          CHECK(groups == 255);
        }
    }
}

// Parts of a pair's reduction cover its chunks once, their counters and sums fit the workspace, shared memory its limit; a grid that
// fills the chip is not split, and keeps the weights' ring in the place of the producer's stages.
void pairs() {
  for (const int multiprocessors : {1, 8, 132})
    for (const int shared : {99, 163, 227})
      for (const int side : {7, 14, 28, 56})
        for (int channels = 32; channels <= 1024; channels += 96)
          for (const int images : {1, 3, 256})
            for (const int bytes : {2, 4}) {
              PairProblem p;
              p.element_bytes = bytes;
              p.first = First::depthwise;
              p.window = {{3, 3}, {1, 1}, {1, 1}, {1, 1}};
              p.x = tensor(images, side, side, channels);
              p.middle = channels;
              p.output[0].out = p.x;
              const Device device{multiprocessors, shared * 1024, false};
              const PairPlan plan = plan_pair(p, device);
              if (plan.refusal) continue;
              const ResidentArgs& a = plan.args;
              const int64_t grid = plan.blocks * plan.shares;
              CHECK(plan.shared <= device.shared_limit);
              CHECK((plan.splits - 1) * a.chunks_per_split < a.chunks && plan.splits * a.chunks_per_split >= a.chunks);
              CHECK(plan.splits == 1 || grid * plan.splits <= multiprocessors);
              CHECK(a.ring_offset == 0 || grid * plan.splits <= multiprocessors);
              if (plan.splits == 1) {
                CHECK(plan.workspace == 0);
                continue;
              }
              const PairSize s = pair_size(plan.shape);
              CHECK(plan.blocks * a.units * 4 <= arrivals_bytes(device));
              CHECK(plan.workspace >= arrivals_bytes(device) + plan.splits * plan.blocks * a.units * s.m * s.n * 4);
            }
}

int main() {
  offsets();
  planner();
  pairs();
  tiles();
  keys();
}
