#include "lightops/pack.h"

#include <cstring>
#include <vector>

namespace lightops {
namespace {

double half_value(uint16_t h) {
  const int exponent = (h >> 10) & 31, mantissa = h & 1023;
  double v;
  if (exponent == 31) v = mantissa ? __builtin_nan("") : __builtin_inf();
  else if (exponent == 0) v = mantissa * 0x1p-24;
  else v = (1024 + mantissa) * 0x1p-25 * double(1u << exponent);
  return h & 0x8000 ? -v : v;
}

double read(const void* data, DType type, int64_t i) {
  switch (type) {
    case DType::f32: return static_cast<const float*>(data)[i];
    case DType::f64: return static_cast<const double*>(data)[i];
    case DType::f16: return half_value(static_cast<const uint16_t*>(data)[i]);
    case DType::bf16: {
      const uint32_t bits = uint32_t(static_cast<const uint16_t*>(data)[i]) << 16;
      float v;
      memcpy(&v, &bits, sizeof v);
      return v;
    }
  }
  return 0;
}

// Rounded once, to nearest even. Through float it would be rounded twice: the bits that this drops are kept as one sticky
// bit below those of bfloat16.
uint16_t bfloat16_bits(double v) {
  float f = float(v);
  uint32_t bits;
  memcpy(&bits, &f, sizeof bits);
  if (v != v) return uint16_t(bits >> 16 | 0x40u);
  if (double(f) != v) {
    if (__builtin_fabs(double(f)) > __builtin_fabs(v)) --bits;
    bits |= 1;
  }
  return uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

void write(void* data, DType type, int64_t i, double v) {
  if (type == DType::f64) static_cast<double*>(data)[i] = v;
  else if (type == DType::bf16) static_cast<uint16_t*>(data)[i] = bfloat16_bits(v);
  else static_cast<float*>(data)[i] = float(v);
}

int64_t size_of(DType packed) { return packed == DType::f64 ? 8 : packed == DType::bf16 ? 2 : 4; }

// Lavin and Gray's filter transforms for tiles of 2 and 4 outputs (points 0, 1, -1, inf and 0, 1, -1, 2, -2, inf).
const double kG2[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
const double kG4[6][3] = {{0.25, 0, 0},
                          {-1 / 6.0, -1 / 6.0, -1 / 6.0},
                          {-1 / 6.0, 1 / 6.0, -1 / 6.0},
                          {1 / 24.0, 1 / 12.0, 1 / 6.0},
                          {1 / 24.0, -1 / 12.0, 1 / 6.0},
                          {0, 0, 1}};

int64_t positions(Algo algo) { return algo == Algo::winograd2 ? 16 : algo == Algo::winograd4 ? 36 : 0; }

// G w G^T of one 3x3 filter, in double: the transformed weights are rounded once.
void transform(const double (*g)[3], int n, const double* w, double* out) {
  double half[6][3];
  for (int i = 0; i < n; ++i)
    for (int x = 0; x < 3; ++x) half[i][x] = g[i][0] * w[x] + g[i][1] * w[3 + x] + g[i][2] * w[6 + x];
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) out[i * n + j] = half[i][0] * g[j][0] + half[i][1] * g[j][1] + half[i][2] * g[j][2];
}

}  // namespace

int64_t packed_numel(int64_t out, int64_t in, int64_t kh, int64_t kw, int algo, bool pairs) {
  if (pairs) in = round_up(in, 2);
  return round_up(out, kPanel) * in * (kh * kw + positions(Algo(algo)));
}

Status pack_conv2d(const PackConv2dParams& p) {
  const bool pairs = p.packed_type == DType::bf16;
  const int64_t taps = p.kh * p.kw, spatial = positions(p.algo), values = pairs ? 2 : 1;
  const int64_t in = round_up(p.in, values), depth = taps * in;
  if (spatial && (p.kh != 3 || p.kw != 3 || pairs)) return Status::unsupported_algo;
  const int64_t matrix = round_up(p.out, kPanel) * p.in;
  memset(p.packed, 0, size_t(packed_numel(p.out, p.in, p.kh, p.kw, int(p.algo), pairs) * size_of(p.packed_type)));
  std::vector<double> w(static_cast<size_t>(taps));
  double transformed[36];
  for (int64_t o = 0; o < p.out; ++o) {
    const int64_t panel = o / kPanel, column = o % kPanel;
    for (int64_t i = 0; i < p.in; ++i) {
      for (int64_t t = 0; t < taps; ++t) {
        const int64_t from = o * p.stride[0] + i * p.stride[1] + t / p.kw * p.stride[2] + t % p.kw * p.stride[3];
        w[size_t(t)] = read(p.weight, p.weight_type, from) * (p.scale ? p.scale[o] : 1.0);
        // Direct panels: k runs over kernel rows, then columns, then input channels, as NHWC pixels do.
        const int64_t k = t * in + i, step = k / values * values;
        write(p.packed, p.packed_type,
              spatial * matrix + (panel * depth + step) * kPanel + column * values + k % values, w[size_t(t)]);
      }
      if (!spatial) continue;
      if (p.algo == Algo::winograd2) transform(kG2, 4, w.data(), transformed);
      else transform(kG4, 6, w.data(), transformed);
      for (int64_t s = 0; s < spatial; ++s)
        write(p.packed, p.packed_type, s * matrix + (panel * p.in + i) * kPanel + column, transformed[s]);
    }
  }
  return Status::ok;
}

Status pack_depthwise(const PackDepthwiseParams& p) {
  const int64_t taps = p.kh * p.kw;
  memset(p.packed, 0, size_t(round_up(p.channels, kGroup) * taps * size_of(p.packed_type)));
  for (int64_t c = 0; c < p.channels; ++c)
    for (int64_t t = 0; t < taps; ++t) {
      const int64_t from = c * p.stride[0] + t / p.kw * p.stride[2] + t % p.kw * p.stride[3];
      write(p.packed, p.packed_type, (c / kGroup * taps + t) * kGroup + c % kGroup,
            read(p.weight, p.weight_type, from) * (p.scale ? p.scale[c] : 1.0));
    }
  return Status::ok;
}

}  // namespace lightops
