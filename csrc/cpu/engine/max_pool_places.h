// A max-pool that remembers where its maxima are, and the way back from there.
#pragma once

#include "engine/vec.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// One row of windows over a map `width` pixels wide, dense in channels. A window's first row is `top` of the map, and may
// lie above it; windows are cut to the map.
struct PoolRow {
  int64_t top = 0, height = 0, width = 0, channels = 0;
  int64_t kernel[2] = {1, 1}, stride = 1, padding = 0;  // stride and padding of columns
  int64_t out_width = 0;

  int64_t first_row() const { return top < 0 ? 0 : top; }
  int64_t last_row() const { return top + kernel[0] < height ? top + kernel[0] : height; }
};

// `in` is row first_row(). out[x][c] and places[x][c] are dense; a place is kx + ky * kernel[1] in the uncut window: of the
// first maximum in row order, and of a NaN before any number (the last one), as torch has it.
template <class C> void max_pool_places(const PoolRow& p, const C* in, C* out, uint8_t* places);

// du[row][x][c] += dout at its place, for rows [first, last) of the map; du is row `first`. dout counts where out > 0 (NaN
// counts too), or everywhere if out is null. dout and out have pixels dout_pixel and out_pixel apart.
template <class C>
void unpool_places(const PoolRow& p, const C* dout, int64_t dout_pixel, const C* out, int64_t out_pixel,
                   const uint8_t* places, int64_t first, int64_t last, C* du);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
