// Which spatial tile of output pixels a block computes.
#include <algorithm>

#include "plan.h"

namespace lightops::cuda {

Tile halo_tile(int th, int tw, const Geometry& g, Lines lines) {
  Tile t{};
  t.tile_h = th;
  t.tile_w = tw;
  t.halo_h = (th - 1) * g.stride_h + (g.kernel_h - 1) * g.dilation_h + 1;
  t.halo_w = (tw - 1) * g.stride_w + (g.kernel_w - 1) * g.dilation_w + 1;
  t.sub_pitch = static_cast<int>(ceil_div(t.halo_w, g.stride_w));
  // Eight output pixels of one ldmatrix phase should be consecutive modulo 8 also where they wrap to the next tile row.
  if (lines == Lines::padded && tw % 8 != 0 && th > 1)
    for (int more = 0; more < 8; ++more)
      if (g.stride_h * g.stride_w * (t.sub_pitch + more) % 8 == tw % 8) {
        t.sub_pitch += more;
        break;
      }
  t.pitch = t.sub_pitch * g.stride_w;
  t.key_pitch = lines == Lines::keyed ? tw : t.pitch;
  t.slots = t.halo_h * t.pitch;
  set_reciprocals(t);
  return t;
}

bool choose_tile(const TileLimits& limits, const Geometry& g, int out_h, int out_w, Tile* chosen) {
  int64_t best = -1;
  const int widths[] = {8, 14, 16, 32, out_w, (out_w + 1) / 2, (out_w + 2) / 3, (out_w + 3) / 4, 4, 2, 1};
  for (const int width : widths) {
    const int tw = std::min({width, out_w, limits.pixels});
    if (tw < 1) continue;
    for (int th = std::min(limits.pixels / tw, out_h); th >= 1; --th) {
      const int even = static_cast<int>(ceil_div(out_h, ceil_div(out_h, th)));  // as many tiles, less overhang
      Tile t = halo_tile(even, tw, g, limits.lines);
      if (t.slots > limits.slots) continue;
      t.tiles_y = static_cast<int>(ceil_div(out_h, even));
      t.tiles_x = static_cast<int>(ceil_div(out_w, tw));
      // Multiply rows (every tile multiplies all its rows, used or not) plus halo rows to load, over the whole map.
      // Rows that wrap inside an ldmatrix phase meet in some banks: worth a sixteenth.
      const bool wraps = tw % 8 != 0 && even > 1 && g.stride_h * t.key_pitch % 8 != tw % 8;
      const int64_t work = 16 * static_cast<int64_t>(t.tiles_y) * t.tiles_x * (limits.pixels + t.slots);
      const int64_t cost = wraps ? work + work / 16 : work;
      if (best < 0 || cost < best) *chosen = t, best = cost;
      break;
    }
  }
  return best >= 0;
}

}  // namespace lightops::cuda
