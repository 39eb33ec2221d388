#include "training/input_gradient.h"

#include "addressing.cuh"
#include "conv_launch.h"
#include "training/channel_pass.h"
#include "training/pack.h"

namespace lightops::cuda {
namespace {

constexpr int kThreads = 256;

struct SpreadArgs {
  View in, out;
  int64_t chunks;  // of all pixels
  int row_chunks;  // of a pixel
  int factor_h, factor_w;
  bool fill;
  float gain;
};

// One thread per 16-byte chunk of the output.
template <class Math>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kThreads, 4) spread_kernel(LIGHTOPS_PARAMS(SpreadArgs) a) {
  constexpr int kElements = kChunkElements<Math>;
  const int64_t index = static_cast<int64_t>(block_x()) * kThreads + thread_index();
  const bool on = index < a.chunks;
  const int64_t pixel = on ? index / a.row_chunks : 0;
  const int c = on ? static_cast<int>(index - pixel * a.row_chunks) * kElements : 0;
  const int64_t line = pixel / a.out.width;
  const int x = static_cast<int>(pixel - line * a.out.width), image = static_cast<int>(line / a.out.height);
  const int y = static_cast<int>(line - static_cast<int64_t>(image) * a.out.height);
  const int from_y = y / a.factor_h, from_x = x / a.factor_w;
  const bool has = on && from_y < a.in.height && from_x < a.in.width &&
                   (a.fill || (from_y * a.factor_h == y && from_x * a.factor_w == x));
  const int64_t from = has ? pixel_offset(a.in, image, static_cast<int64_t>(from_y) * a.in.width + from_x) : 0;
  float v[kElements];
  unpack<Math>(load_chunk<Math>(a.in, from, c, has), v);
#pragma unroll
  for (int e = 0; e < kElements; ++e) v[e] *= a.gain;
  store_chunk<Math>(a.out, pixel_offset(a.out, image, static_cast<int64_t>(y) * a.out.width + x), c, pack<Math>(v), on);
}

bool strided(const Window& w) { return w.stride[0] > 1 || w.stride[1] > 1; }

PackProblem pack_of(const InputGradient& g) {
  PackProblem p;
  p.weight = g.weight;
  p.out = g.dy.c;
  p.in = g.dx.c;
  p.kernel[0] = g.window.kernel[0], p.kernel[1] = g.window.kernel[1];
  p.type = g.type;
  p.packing = Packing::input_gradient;
  return p;
}

// Where the pieces of the workspace lie, and the convolution.
struct GradientPlan {
  ConvProblem conv;
  Nhwc spread;  // dy with zeros between its pixels; null data at stride 1
  void* packed = nullptr;
  void* rest = nullptr;
  int64_t workspace = 0;
};

GradientPlan plan_gradient(const InputGradient& g, void* workspace, const Device& device) {
  GradientPlan plan;
  const int bytes = element_bytes(g.type);
  Pieces pieces(static_cast<unsigned char*>(workspace));
  plan.packed = pieces.take<unsigned char>(packed_bytes(pack_of(g)));
  ConvProblem& c = plan.conv;
  c.x = g.dy;
  if (strided(g.window)) {
    Nhwc& s = plan.spread;
    s = g.dy;
    // As large as gives dx its size: windows that fit no more at the far edge have no pixel in dy.
    s.h = g.dx.h + 2 * g.window.padding[0] - g.window.dilation[0] * (g.window.kernel[0] - 1);
    s.w = g.dx.w + 2 * g.window.padding[1] - g.window.dilation[1] * (g.window.kernel[1] - 1);
    s.pixel = packed_row(s.c, bytes);
    s.image = s.h * s.w * s.pixel;
    s.data = pieces.take<unsigned char>(s.n * s.image * bytes);
    c.x = s;
  }
  c.out = g.dx;
  c.element_bytes = bytes;
  c.window = g.window;
  for (int axis = 0; axis < 2; ++axis) {
    c.window.stride[axis] = 1;
    c.window.padding[axis] = g.window.dilation[axis] * (g.window.kernel[axis] - 1) - g.window.padding[axis];
  }
  c.weight = plan.packed;
  plan.rest = pieces.take<unsigned char>(conv_workspace(c, device));
  plan.workspace = pieces.used;
  return plan;
}

}  // namespace

int64_t input_gradient_workspace(const InputGradient& g, const Device& device) {
  return element_bytes(g.type) ? plan_gradient(g, nullptr, device).workspace : 0;
}

Result run_input_gradient(const InputGradient& g, void* workspace, const Device& device, StreamHandle stream) {
  if (element_bytes(g.type) == 0) return {"the CUDA kernels take float16, bfloat16 and float32", 0};
  const GradientPlan plan = plan_gradient(g, workspace, device);
  Result result = run_pack(pack_of(g), plan.packed, stream);
  if (result.ok() && strided(g.window))
    result = run_spread({g.dy, plan.spread, g.type, {g.window.stride[0], g.window.stride[1]}, false, 1.f}, stream);
  return result.ok() ? run_conv(plan.conv, g.type, device, plan.rest, stream) : result;
}

Result run_spread(const SpreadPixels& s, StreamHandle handle) {
  const int bytes = element_bytes(s.type);
  if (bytes == 0) return {"the CUDA kernels take float16, bfloat16 and float32", 0};
  SpreadArgs a{};
  a.in = view_of(s.in, bytes);
  a.out = view_of(s.out, bytes);
  a.row_chunks = static_cast<int>(ceil_div(s.out.c, kChunkBytes / bytes));
  a.chunks = s.out.n * s.out.h * s.out.w * a.row_chunks;
  a.factor_h = static_cast<int>(s.factor[0]), a.factor_w = static_cast<int>(s.factor[1]);
  a.fill = s.fill;
  a.gain = s.gain;
  const int64_t blocks = ceil_div(a.chunks, kThreads);
  if (blocks == 0) return {};
  if (blocks >= INT64_C(1) << 31) return {"more than 2^31 - 1 blocks", 0};
  const auto grid = static_cast<unsigned>(blocks);
  const auto stream = static_cast<Stream>(handle);
  return {nullptr, s.type == DType::f16    ? launch<spread_kernel<F16>>(grid, 1, 1, kThreads, 0, stream, a)
                   : s.type == DType::bf16 ? launch<spread_kernel<BF16>>(grid, 1, 1, kThreads, 0, stream, a)
                                           : launch<spread_kernel<F32>>(grid, 1, 1, kThreads, 0, stream, a)};
}

}  // namespace lightops::cuda
