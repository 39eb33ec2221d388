// The kernel of gradient_conv.h: the implicit GEMM up to its staged tile, then the mask and the sums. Included by
// gradient_conv_<math>.cu only.
#pragma once

#include "implicit_gemm.cuh"
#include "training/channel_pass.cuh"
#include "training/gradient_conv.h"

namespace lightops::cuda {

// Of the block's columns: scale, shift and mean, in the order of table_place, which goes by whole rows.
template <class Math, int kColumns>
constexpr int kNormTable = kColumns < kRowElements<Math> ? kRowElements<Math> : kColumns;
template <class Math, int kColumns, int kThreads>
LIGHTOPS_DEVICE void stage_norm(float* table, const GradientArgs& a, int column) {
  constexpr int kTable = kNormTable<Math, kColumns>;
  stage_scale_shift<Math>(table, a.scale ? a.scale + column : nullptr, a.scale ? a.shift + column : nullptr,
                          a.conv.out.channels - column, kTable, kThreads);
  for (int c = thread_index(); c < kTable; c += kThreads)
    store_shared(table + 2 * kTable + table_place<Math>(c),
                 a.mean ? load_global(a.mean + column + c, column + c < a.conv.out.channels) : 0.f);
}
template <class Math>
LIGHTOPS_DEVICE void load_staged(float (&v)[kChunkElements<Math>], const float* table, int channel) {
#pragma unroll
  for (int i = 0; i < kChunkElements<Math>; i += 4) {
    const Vec16 raw = load_shared<Vec16>(table + table_place<Math>(channel + i));
#pragma unroll
    for (int j = 0; j < 4; ++j) v[i + j] = bits_to_float(raw.w[j]);
  }
}

// As Tables::fill_pixels, of a lattice of outputs.
LIGHTOPS_DEVICE void fill_lattice(int* pixels, const GradientArgs& a, TilePlace place, int m, int threads) {
  const Tile& t = a.conv.tile;
  for (int r = thread_index(); r < m; r += threads) {
    const int row = divided(r, t.by_tile_w), y = place.y + row, x = place.x + r - row * t.tile_w;
    const bool on = r < t.tile_h * t.tile_w && y < a.conv.out.height && x < a.conv.out.width;
    store_shared(pixels + r, on ? (y * a.step_h + a.first_h) * a.map_width + x * a.step_w + a.first_w : -1);
  }
}

template <class Math, int kRows, int kColumns, int kThreads>
struct MaskedStore {
  static constexpr int kElements = kChunkElements<Math>, kChunks = kColumns / kElements, kStep = kThreads / kChunks;
  static_assert(kRows * kChunks % kThreads == 0, "every thread stores the same number of chunks");
  static constexpr int kThreadRows = kRows / kStep;

  const GradientArgs& a;
  const unsigned char* staged;
  const int* pixels;
  int image, column;
  float scale[kElements], shift[kElements], mean[kElements], sums[2][kElements] = {};

  LIGHTOPS_DEVICE MaskedStore(const GradientArgs& args, const unsigned char* tile, const int* rows, const float* table,
                              int of_image, int first_column)
      : a(args), staged(tile), pixels(rows), image(of_image), column(first_column) {
    const int n = thread_index() % kChunks * kElements;
    load_staged<Math>(scale, table, n);
    load_staged<Math>(shift, table + kNormTable<Math, kColumns>, n);
    load_staged<Math>(mean, table + 2 * kNormTable<Math, kColumns>, n);
  }

  // kBatch rows of the thread at a time: what they read of global memory is in flight together.
  template <bool kVector, int kBatch>
  LIGHTOPS_DEVICE void rows() {
    const View &out = a.conv.out, &residual = a.conv.residual;
    const int n = thread_index() % kChunks * kElements, c = column + n;
    const bool some = c < out.channels;
    const Slope through(a.act);
    const auto load = [&](const View& v, int pixel) {
      const int64_t at = pixel_offset(v, image, pixel < 0 ? 0 : pixel);
      return kVector ? load_global16(element<Math>(v, at + (some ? c : 0)), pixel >= 0)
                     : load_chunk<Math>(v, at, c, pixel >= 0);
    };
#pragma unroll 1
    for (int first = thread_index() / kChunks; first < kRows; first += kBatch * kStep) {
      int pixel[kBatch];
      Vec16 raw[kBatch], before[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        pixel[i] = some ? load_shared<int>(pixels + first + i * kStep) : -1;
        if (a.x.data) raw[i] = load(a.x, pixel[i]);
        if (residual.data) before[i] = load(residual, pixel[i]);
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (pixel[i] < 0) continue;
        float x[kElements] = {}, z[kElements], dz[kElements];
        unpack<Math>(load_shared<Vec16>(staged + (first + i * kStep) * kStagedPitch<Math, kColumns> +
                                        n * static_cast<int>(sizeof(typename Math::Store))),
                     dz);
        if (a.x.data) {
          unpack<Math>(raw[i], x);
#pragma unroll
          for (int e = 0; e < kElements; ++e) z[e] = multiply_add(x[e], scale[e], shift[e]);
          through.apply(dz, z);
        }
#pragma unroll
        for (int e = 0; e < kElements; ++e) {
          sums[0][e] += dz[e];
          sums[1][e] = multiply_add(dz[e], x[e] - mean[e], sums[1][e]);
          dz[e] = a.scaled ? dz[e] * scale[e] : dz[e];
        }
        if (residual.data) {
          float other[kElements];
          unpack<Math>(before[i], other);
#pragma unroll
          for (int e = 0; e < kElements; ++e) dz[e] += other[e];
        }
        if (!out.data) continue;
        const int64_t at = pixel_offset(out, image, pixel[i]);
        if (kVector) store_global16(element_out<Math>(out, at + c), pack<Math>(dz), true);
        else store_chunk<Math>(out, at, c, pack<Math>(dz), true);
      }
    }
  }
  LIGHTOPS_DEVICE void rows() {
    const View &out = a.conv.out, &residual = a.conv.residual;
    if (out.vector && (!a.x.data || a.x.vector) && (!residual.data || residual.vector)) {
      rows<true, 4>();
    } else {
      rows<false, 1>();
    }
  }

  // The tile's sums; shared memory is overwritten.
  LIGHTOPS_DEVICE void finish(int part) const {
    struct { int columns, lanes; } const lanes{kChunks, kStep};
    sync_threads();  // every thread has read its rows
    sum_lanes<kThreads>(lanes, sums, [&](int n, const float (&total)[2]) {
      const int c = column + n, channels = a.conv.out.channels;
      float* const to = a.sums + static_cast<int64_t>(part) * 2 * channels + c;
      store_global(to, total[0], c < channels);
      store_global(to + channels, total[1], c < channels);
    });
  }
};

// Grid: x = tile * column tiles + column tile, as in the implicit GEMM.
template <class Block, class Loader>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(Block::kThreads, Block::kBlocks)
    gradient_kernel(LIGHTOPS_PARAMS(GradientArgs) a) {
  using Math = typename Block::Math;
  using Store = MaskedStore<Math, Block::kM, Block::kN, Block::kThreads>;
  const ConvArgs& c = a.conv;
  const Tables tables(shared_memory(), Block::kM, Block::kN);
  unsigned char* const shared = shared_memory() + tables_bytes(Block::kM, Block::kN);
  static_assert(kSumBytes<Store::kElements, 2, Block::kThreads> <=
                    tables_bytes(Block::kM, Block::kN) + Block::kM * kStagedPitch<Math, Block::kN>,
                "the sums take the place of the tables and of the staged tile");
  const int tile = block_x() / c.column_tiles, column = (block_x() - tile * c.column_tiles) * Block::kN;
  const TilePlace place = place_tile(c.tile, tile);
  fill_lattice(tables.pixel, a, place, Block::kM, Block::kThreads);
  tables.fill_bias(nullptr, column, c.out.channels, Block::kN, Block::kThreads);
  const int taps = !Loader::kManyTaps ? 1 : c.geometry.kernel_h * c.geometry.kernel_w;
  const int group = !Loader::kManyTaps ? 1 : c.tap_group;
  if (Loader::kManyTaps) tables.fill_taps(c.tile, c.geometry, Block::kThreads);
  auto* const norm =
      reinterpret_cast<float*>(shared + stages_bytes(Block::size(), c.tile.slots, (taps + group - 1) / group, group,
                                                     sizeof(typename Math::Store)));
  stage_norm<Math, Block::kN, Block::kThreads>(norm, a, column);
  // The tables are read behind the pipeline's first barrier.
  Loader loader(c, place, nullptr);
  typename Block::Warp sums;
  accumulate<Block>(c, loader, shared, tables.tap, column, 0, c.chunks * ((taps + group - 1) / group), sums, [] {});
  stage_tile<Math, Block::kN>(shared, sums, Block::warp_row(), Block::warp_column(), tables.bias, Activation<Math>(0));
  sync_threads();
  Store store(a, shared, tables.pixel, norm, place.image, column);
  store.rows();
  if (a.sums) store.finish((block_x() - column / Block::kN) / c.column_tiles);
}

template <class Math, Shape kShape, template <class, int, int> class LoaderOf, int kRows>
int launch_gradient_shape(const GradientPlan& plan, Stream stream) {
  using Block = ShapeOf<Math, kShape>;
  return launch<gradient_kernel<Block, LoaderOf<Math, Block::kThreads, kRows>>>(
      static_cast<unsigned>(plan.conv.blocks), 1, 1, Block::kThreads, static_cast<unsigned>(plan.conv.shared), stream,
      plan.args);
}

template <class Math, Shape kShape>
int launch_gradient_pointwise(const GradientPlan& plan, Stream stream) {
  return launch_gradient_shape<Math, kShape, PointwiseLoader, shape_size(kShape).pointwise_rows()>(plan, stream);
}
template <class Math, Shape kShape>
int launch_gradient_spatial(const GradientPlan& plan, Stream stream) {
  return launch_gradient_shape<Math, kShape, SpatialLoader, shape_size(kShape).spatial_rows>(plan, stream);
}

template <class Math>
Result launch_gradient_math(const GradientPlan& plan, StreamHandle handle) {
  const Result unknown{"the planner chose a tile shape that is not built", 0};
  const auto stream = static_cast<Stream>(handle);
  if (plan.conv.load == Load::pointwise) {
    switch (plan.conv.shape) {
      case Shape::wide:
        if constexpr (sizeof(typename Math::Store) == 2)
          return {nullptr, launch_gradient_pointwise<Math, Shape::wide>(plan, stream)};
        return unknown;
      case Shape::mid: return {nullptr, launch_gradient_pointwise<Math, Shape::mid>(plan, stream)};
      case Shape::small: return {nullptr, launch_gradient_pointwise<Math, Shape::small>(plan, stream)};
      default: return unknown;
    }
  }
  switch (plan.conv.shape) {
    case Shape::mid: return {nullptr, launch_gradient_spatial<Math, Shape::mid>(plan, stream)};
    case Shape::narrow: return {nullptr, launch_gradient_spatial<Math, Shape::narrow>(plan, stream)};
    case Shape::compact: return {nullptr, launch_gradient_spatial<Math, Shape::compact>(plan, stream)};
    default: return unknown;
  }
}

}  // namespace lightops::cuda
