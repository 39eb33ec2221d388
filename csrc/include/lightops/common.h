// Types shared by every kernel: data types, activations, tensor views, the thread pool handle.
// Part of the seam: standard headers only, no torch, no CUDA.
#pragma once

#include <cstdint>

namespace lightops {

enum class DType : int32_t { f32, f64, bf16, f16 };

// Codes are part of the operator schemas (lightops/ops/_codes.py holds the same table).
enum class Act : int32_t { none = 0, relu = 1, relu6 = 2, hardswish = 3, silu = 4 };

// How a 3x3 stride-1 convolution is computed. The number is the Winograd output tile.
enum class Algo : int32_t { direct = 0, winograd2 = 2, winograd4 = 4 };

enum class Status : int32_t { ok = 0, unsupported_dtype = 1, unsupported_algo = 2, unsupported_groups = 3 };

// A 4-D tensor [N, H, W, C], channels innermost with stride 1. Strides are in elements.
// `pixel` may exceed `c`: a channel slice of a wider buffer is a legal view. Rows are dense: row stride = w * pixel.
struct Nhwc {
  void* data = nullptr;
  int64_t n = 0, h = 0, w = 0, c = 0;
  int64_t pixel = 0;  // between neighbouring pixels
  int64_t image = 0;  // between images

  int64_t row() const { return w * pixel; }
};

// The caller's thread pool. `run` calls body(context, task) once for every task in [0, tasks), on at most `threads`
// threads, and returns when all are done: the return is the barrier between two phases of a kernel.
struct Parallel {
  int threads = 1;
  void (*run)(int64_t tasks, void (*body)(void* context, int64_t task), void* context) = nullptr;
};

// Geometry of a 2-D window, in pixels: rows first, columns second.
struct Window {
  int64_t kernel[2] = {1, 1};
  int64_t stride[2] = {1, 1};
  int64_t padding[2] = {0, 0};
  int64_t dilation[2] = {1, 1};

  int64_t out(int axis, int64_t in) const {
    return (in + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1) / stride[axis] + 1;
  }
};

// Weights are packed in panels of 32 output channels, whatever the instruction set: [ceil(O/32)][K][32], zero filled.
// Winograd weights hold one such matrix per tile position: [(m+2)^2][ceil(O/32)][I][32].
constexpr int64_t kPanel = 32;

// Depthwise weights are packed in groups of 16 channels: [ceil(C/16)][kh * kw][16], zero filled.
constexpr int64_t kGroup = 16;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace lightops
