// A warp's share of a matrix product: kM x kN accumulators from a shared tile of A (rows chosen by the caller) and of B.
//
// Accumulators lie as in the D fragment of mma.m16n8: lane l holds rows l/4 and l/4+8, columns 2(l%4) and +1 of each
// 16x8 tile. The fp32 path uses the same map, so that epilogues are written once.
#pragma once

#include "number.cuh"

namespace lightops::cuda {

template <class Math, int kM, int kN>
struct WarpMath {
  static_assert(kM % 16 == 0 && kN % 16 == 0, "B fragments are loaded two 8-column tiles at a time");
  static constexpr int kTilesM = kM / 16, kTilesN = kN / 8;
  // How many rows of A a lane addresses: one per ldmatrix (tensor cores), or the rows it accumulates (fp32).
  static constexpr int kLaneRows = Math::kTensorCore ? kTilesM : kM / 8;

  float sum[kTilesM][kTilesN][4];

  LIGHTOPS_DEVICE void clear() {
#pragma unroll
    for (int m = 0; m < kTilesM; ++m)
#pragma unroll
      for (int n = 0; n < kTilesN; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[m][n][i] = 0.f;
  }

  // The row of the warp's tile whose address the lane supplies as its i-th.
  static LIGHTOPS_DEVICE int lane_row(int lane, int i) {
    return Math::kTensorCore ? i * 16 + lane % 16 : i * 8 + lane / 4;
  }

  // sum += A[rows, 64 bytes] * B[first_column + 0..kN, 64 bytes]^T
  LIGHTOPS_DEVICE void step(const unsigned char* a, const int (&rows)[kLaneRows], const unsigned char* b, int first_column) {
    const int lane = thread_index() % 32;
    if constexpr (Math::kTensorCore) {
      // The fragments of the shorter side stay in registers while those of the longer pass by: a 32x64 tile then keeps 12
      // fragment registers instead of 20, which is what lets 16 warps a block run without spills.
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const auto load_a = [&](uint32_t (&f)[4], int m) { ldmatrix_x4(f, a + tile_offset(rows[m], half * 2 + lane / 16)); };
        const auto load_b = [&](uint32_t (&f)[4], int n) {
          ldmatrix_x4(f, b + tile_offset(first_column + n * 16 + lane % 8 + lane / 16 * 8, half * 2 + lane / 8 % 2));
        };
        if constexpr (kTilesM < kTilesN / 2) {
          uint32_t af[kTilesM][4];
#pragma unroll
          for (int m = 0; m < kTilesM; ++m) load_a(af[m], m);
#pragma unroll
          for (int n = 0; n < kTilesN / 2; ++n) {
            uint32_t bf[4];
            load_b(bf, n);
#pragma unroll
            for (int m = 0; m < kTilesM; ++m) {
              Math::mma(sum[m][n * 2], af[m], &bf[0]);
              Math::mma(sum[m][n * 2 + 1], af[m], &bf[2]);
            }
          }
        } else {
          uint32_t bf[kTilesN / 2][4];
#pragma unroll
          for (int n = 0; n < kTilesN / 2; ++n) load_b(bf[n], n);
#pragma unroll
          for (int m = 0; m < kTilesM; ++m) {
            uint32_t af[4];
            load_a(af, m);
#pragma unroll
            for (int n = 0; n < kTilesN; ++n) Math::mma(sum[m][n], af, &bf[n / 2][n % 2 * 2]);
          }
        }
      }
    } else {
#pragma unroll
      for (int chunk = 0; chunk < kRowChunks; ++chunk) {
        float bv[kTilesN][2][4];
#pragma unroll
        for (int n = 0; n < kTilesN; ++n)
#pragma unroll
          for (int j = 0; j < 2; ++j)
            unpack<Math>(load_shared<Vec16>(b + tile_offset(first_column + n * 8 + lane % 4 * 2 + j, chunk)), bv[n][j]);
#pragma unroll
        for (int r = 0; r < kLaneRows; ++r) {
          float av[4];
          unpack<Math>(load_shared<Vec16>(a + tile_offset(rows[r], chunk)), av);
#pragma unroll
          for (int n = 0; n < kTilesN; ++n)
#pragma unroll
            for (int j = 0; j < 2; ++j)
#pragma unroll
              for (int k = 0; k < 4; ++k) sum[r / 2][n][r % 2 * 2 + j] += av[k] * bv[n][j][k];
        }
      }
    }
  }

  // visit(row, column, first, second) for each pair of neighbouring columns the lane holds, relative to the warp's tile.
  template <class Visit>
  LIGHTOPS_DEVICE void each_pair(Visit visit) const {
    const int lane = thread_index() % 32;
#pragma unroll
    for (int m = 0; m < kTilesM; ++m)
#pragma unroll
      for (int n = 0; n < kTilesN; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          visit(m * 16 + i * 8 + lane / 4, n * 8 + lane % 4 * 2, sum[m][n][i * 2], sum[m][n][i * 2 + 1]);
  }
};

}  // namespace lightops::cuda
