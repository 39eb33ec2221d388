// Warp instructions, by the fragment tables of the PTX ISA ("Matrix Fragments for mma.m16n8k16 / m16n8k8", "ldmatrix").
//
// Accumulation order: the emulator adds the products in ascending k, each product exact (an fp16, bf16 or tf32 product fits
// in fp32), each sum rounded to fp32. Hardware adds groups of products with one common alignment, so results may
// differ in the last bits; on integer data that needs no rounding (oracle T1) every order gives the same bits.
#include "device.h"

namespace lightops::cuda {
namespace {

enum Kind { kShuffle = 1, kLdmatrix, kLdmatrixTransposed, kMma };

float table_f16[65536];
const bool table_ready = [] {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const std::uint32_t sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31, mantissa = bits & 1023;
    if (exponent == 0) table_f16[bits] = (sign ? -1.f : 1.f) * static_cast<float>(mantissa) * 0x1p-24f;
    else
      table_f16[bits] = bits_to_float(sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13);
  }
  return true;
}();

struct MmaLane {
  MmaKind kind;
  float* d;
  const std::uint32_t* a;
  const std::uint32_t* b;
};

float half_at(MmaKind kind, std::uint32_t word, int upper) {
  const auto bits = static_cast<std::uint16_t>(upper ? word >> 16 : word);
  return kind == kMmaF16 ? table_f16[bits] : bf16_to_float(bits);
}

void execute_mma(void* const* lanes, int) {
  const auto kind = static_cast<MmaLane*>(lanes[0])->kind;
  const int depth = kind == kMmaTf32 ? 8 : 16;
  float a[16][16], b[16][8], d[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto* arg = static_cast<const MmaLane*>(lanes[lane]);
    const int group = lane / 4, in_group = lane % 4;
    for (int i = 0; i < 4; ++i) d[group + (i / 2) * 8][in_group * 2 + i % 2] = arg->d[i];
    if (kind == kMmaTf32) {
      // tf32 reads the upper 19 bits of the register: what lies below is dropped.
      for (int i = 0; i < 4; ++i)
        a[group + (i % 2) * 8][in_group + (i / 2) * 4] = bits_to_float(arg->a[i] & 0xffffe000u);
      for (int i = 0; i < 2; ++i) b[in_group + i * 4][group] = bits_to_float(arg->b[i] & 0xffffe000u);
    } else {
      for (int i = 0; i < 8; ++i)
        a[group + (i / 2 % 2) * 8][in_group * 2 + i % 2 + (i / 4) * 8] = half_at(kind, arg->a[i / 2], i % 2);
      for (int i = 0; i < 4; ++i) b[in_group * 2 + i % 2 + (i / 2) * 8][group] = half_at(kind, arg->b[i / 2], i % 2);
    }
  }
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < depth; ++k)
      for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
  for (int lane = 0; lane < 32; ++lane) {
    auto* arg = static_cast<MmaLane*>(lanes[lane]);
    for (int i = 0; i < 4; ++i) arg->d[i] = d[lane / 4 + (i / 2) * 8][lane % 4 * 2 + i % 2];
  }
  emulator::count_mma(16 * 8 * depth);
}

struct MatrixLane {
  std::uint32_t* r;
  const unsigned char* row;
};

void execute_ldmatrix(void* const* lanes, int) {
  std::uint32_t rows[32][4];
  for (int lane = 0; lane < 32; ++lane) std::memcpy(rows[lane], static_cast<MatrixLane*>(lanes[lane])->row, 16);
  for (int lane = 0; lane < 32; ++lane)
    for (int matrix = 0; matrix < 4; ++matrix)
      static_cast<MatrixLane*>(lanes[lane])->r[matrix] = rows[matrix * 8 + lane / 4][lane % 4];
}

// A lane's two elements of row lane / 4 of the transposed matrix: column lane / 4 of two rows.
void execute_ldmatrix_transposed(void* const* lanes, int) {
  std::uint16_t rows[32][8];
  for (int lane = 0; lane < 32; ++lane) std::memcpy(rows[lane], static_cast<MatrixLane*>(lanes[lane])->row, 16);
  for (int lane = 0; lane < 32; ++lane)
    for (int matrix = 0; matrix < 4; ++matrix) {
      const auto at = [&](int i) { return static_cast<std::uint32_t>(rows[matrix * 8 + lane % 4 * 2 + i][lane / 4]); };
      static_cast<MatrixLane*>(lanes[lane])->r[matrix] = at(0) | at(1) << 16;
    }
}

struct ShuffleLane {
  float value, result;
  int mask;
};

void execute_shuffle(void* const* lanes, int count) {
  for (int lane = 0; lane < count; ++lane) {
    auto* arg = static_cast<ShuffleLane*>(lanes[lane]);
    arg->result = static_cast<ShuffleLane*>(lanes[(lane ^ arg->mask) % count])->value;
  }
}

}  // namespace

float f16_to_float(std::uint16_t bits) { return table_f16[bits]; }

std::uint16_t float_to_f16(float value) {
  const std::uint32_t bits = float_to_bits(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fff;  // the NaN that cvt.rn.f16.f32 makes
  if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // rounds to 65536 or more
  if (magnitude < 0x38800000u) {
    // Subnormal: adding 2^-1 leaves the 10 bits, correctly rounded, at the bottom of the sum's mantissa.
    const float sum = bits_to_float(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (float_to_bits(sum) - 0x3f000000u));
  }
  const std::uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

float warp_shuffle_xor(float value, int mask, emulator::Site site) {
  ShuffleLane arg{value, 0, mask};
  emulator::warp_collective(kShuffle, execute_shuffle, &arg, site);
  return arg.result;
}

void warp_ldmatrix_x4(std::uint32_t* r, const void* row, bool transposed, emulator::Site site) {
  static const unsigned char nothing[16] = {};
  emulator::count_shared(row, 16, false, site);
  MatrixLane arg{r, static_cast<const unsigned char*>(row)};
  if (!emulator::check_shared(row, 16, false, site)) arg.row = nothing;
  if (transposed) emulator::warp_collective(kLdmatrixTransposed, execute_ldmatrix_transposed, &arg, site);
  else emulator::warp_collective(kLdmatrix, execute_ldmatrix, &arg, site);
}

void warp_mma(MmaKind kind, float* d, const std::uint32_t* a, const std::uint32_t* b, emulator::Site site) {
  MmaLane arg{kind, d, a, b};
  emulator::warp_collective(kMma + kind, execute_mma, &arg, site);
}

}  // namespace lightops::cuda
