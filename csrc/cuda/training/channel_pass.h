// How a pass over pixels with something per channel (sums, or vectors applied) is shared out: plain numbers from sizes alone.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "conv_args.h"
#include "lightops/cuda.h"
#include "lightops/training/norm.h"

namespace lightops::cuda {

constexpr int kPassThreads = 256;
// Blocks of a pass in all: two waves of an H100 at four blocks a multiprocessor. Not of the device at hand: the cut decides in which
// order sums are taken.
constexpr int kPassBlocks = 1024;
constexpr int kMostColumns = 32;

// A block has `columns` neighbouring 16-byte chunks of channels and `lanes` pixels in hand at a time, and goes over the `step`
// pixels of its part. Columns come from the channels (512 bytes of a pixel at most, all of it where it is less), so that whole
// pixels are read in one piece and few threads are idle.
struct ChannelPass {
  int columns, lanes;
  int groups;  // of columns: grid x
  int parts;  // grid y
  int step;
  int pixels;  // of all images
  int height, width;
  int jump_image, jump_row, jump_column;  // `lanes` pixels further
};

// Images that follow each other without a gap in every one of the tensors become one line of pixels. Null data: ignored.
void join_images(std::initializer_list<Nhwc*> tensors);

ChannelPass plan_pass(const Nhwc& x, int element_bytes);
// Why a pass over x cannot be planned, or null.
const char* pass_refusal(const Nhwc& x, DType type);

// What tiles leave per channel is merged in two steps where they are many: the last merge has a block for eight channels only, so
// kTileGroup neighbouring tiles become one before it, a block of kPassThreads channels or entries a group.
constexpr int kTileGroup = 32;
constexpr int kMostTiles = kTileGroup * 65535;  // groups are a grid's y
inline int tile_groups(int tiles) { return tiles > kTileGroup ? static_cast<int>(ceil_div(tiles, kTileGroup)) : 0; }

// A Norm as kernels take it.
struct NormArgs {
  const float *mean, *var;  // null: z = x
  const float *gamma, *beta;  // null: 1, 0
  float eps;
};
inline NormArgs norm_args(const Norm& n) {
  return {static_cast<const float*>(n.mean), static_cast<const float*>(n.var), static_cast<const float*>(n.gamma),
          static_cast<const float*>(n.beta), static_cast<float>(n.eps)};
}

// Pieces of a workspace.
struct Pieces {
  unsigned char* base;
  int64_t used = 0;
  explicit Pieces(void* workspace) : base(static_cast<unsigned char*>(workspace)) {}
  template <class T>
  T* take(int64_t elements) {
    T* const piece = reinterpret_cast<T*>(base + used);
    used += round_up(elements * static_cast<int64_t>(sizeof(T)), 256);
    return piece;
  }
};

}  // namespace lightops::cuda
