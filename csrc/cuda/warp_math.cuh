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

  // `rows` are places (row_place). sum += A[rows, steps * 32 bytes] * B[first_column + 0..kN, the same]^T, kSteps of them at most (one shared row has 4), from step
  // `first` on. A and B are whole rows of shared memory, and the swizzle moves chunks within a row, so that the address of step s is
  // that of step 0 with two bits turned over: one instruction for each fragment.
  template <int kSteps = kRowBytes / kStepBytes>
  LIGHTOPS_DEVICE void multiply(const unsigned char* a, const int (&rows)[kLaneRows], const unsigned char* b,
                                int first_column, int steps, int first = 0) {
    const int lane = thread_index() % 32;
    unsigned char* const base = shared_memory();
    int at_a[kLaneRows], at_b[Math::kTensorCore ? kTilesN / 2 : 1];
    if constexpr (Math::kTensorCore) {
#pragma unroll
      for (int m = 0; m < kTilesM; ++m)
        at_a[m] = (static_cast<int>(a - base) + place_offset(rows[m], lane / 16)) ^ first * kStepBytes;
#pragma unroll
      for (int n = 0; n < kTilesN / 2; ++n)
        at_b[n] =
            (static_cast<int>(b - base) + tile_offset(first_column + n * 16 + lane % 8 + lane / 16 * 8, lane / 8 % 2)) ^
            first * kStepBytes;
    }
    const auto step = [&](int s) {
      if constexpr (Math::kTensorCore) step_fragments(base, at_a, at_b, s);
      else step_scalars(a, rows, b, first_column, first + s);
    };
    if (steps >= kSteps) {
#pragma unroll
      for (int s = 0; s < kSteps; ++s) step(s);
    } else {
#pragma unroll 1
      for (int s = 0; s < steps; ++s) step(s);
    }
  }

  // The fragments of the shorter side stay in registers while those of the longer pass by.
  LIGHTOPS_DEVICE void step_fragments(unsigned char* base, const int (&at_a)[kLaneRows], const int* at_b, int s) {
    const auto load = [&](uint32_t (&f)[4], int at) { ldmatrix_x4(f, base + (at ^ s * kStepBytes)); };
    if constexpr (kTilesM < kTilesN / 2) {
      uint32_t af[kTilesM][4];
#pragma unroll
      for (int m = 0; m < kTilesM; ++m) load(af[m], at_a[m]);
#pragma unroll
      for (int n = 0; n < kTilesN / 2; ++n) {
        uint32_t bf[4];
        load(bf, at_b[n]);
#pragma unroll
        for (int m = 0; m < kTilesM; ++m) {
          Math::mma(sum[m][n * 2], af[m], &bf[0]);
          Math::mma(sum[m][n * 2 + 1], af[m], &bf[2]);
        }
      }
    } else {
      uint32_t bf[kTilesN / 2][4];
#pragma unroll
      for (int n = 0; n < kTilesN / 2; ++n) load(bf[n], at_b[n]);
#pragma unroll
      for (int m = 0; m < kTilesM; ++m) {
        uint32_t af[4];
        load(af, at_a[m]);
#pragma unroll
        for (int n = 0; n < kTilesN; ++n) Math::mma(sum[m][n], af, &bf[n / 2][n % 2 * 2]);
      }
    }
  }

  LIGHTOPS_DEVICE void step_scalars(const unsigned char* a, const int (&rows)[kLaneRows], const unsigned char* b,
                                    int first_column, int s) {
    const int lane = thread_index() % 32;
#pragma unroll
    for (int chunk = 2 * s; chunk < 2 * s + 2; ++chunk) {
      float bv[kTilesN][2][4];
#pragma unroll
      for (int n = 0; n < kTilesN; ++n)
#pragma unroll
        for (int j = 0; j < 2; ++j)
          unpack<Math>(load_shared<Vec16>(b + tile_offset(first_column + n * 8 + lane % 4 * 2 + j, chunk)), bv[n][j]);
#pragma unroll
      for (int r = 0; r < kLaneRows; ++r) {
        float av[4];
        unpack<Math>(load_shared<Vec16>(a + place_offset(rows[r], chunk)), av);
#pragma unroll
        for (int n = 0; n < kTilesN; ++n)
#pragma unroll
          for (int j = 0; j < 2; ++j)
#pragma unroll
            for (int k = 0; k < 4; ++k) sum[r / 2][n][r % 2 * 2 + j] += av[k] * bv[n][j][k];
      }
    }
  }

  // visit(column, each_row) for each pair of neighbouring columns the lane holds; each_row(f) calls f(row, first, second). Both
  // relative to the warp's tile.
  template <class Visit>
  LIGHTOPS_DEVICE void each_column(Visit visit) const {
    const int lane = thread_index() % 32;
#pragma unroll
    for (int n = 0; n < kTilesN; ++n)
      visit(n * 8 + lane % 4 * 2, [&](auto f) {
#pragma unroll
        for (int m = 0; m < kTilesM; ++m)
#pragma unroll
          for (int i = 0; i < 2; ++i) f(m * 16 + i * 8 + lane / 4, sum[m][n][i * 2], sum[m][n][i * 2 + 1]);
      });
  }
};

}  // namespace lightops::cuda
