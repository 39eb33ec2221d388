#include "training/input_gradient.h"

#include "addressing.cuh"
#include "conv_launch.h"
#include "training/channel_pass.h"
#include "training/masked_gradient.h"
#include "training/pack.h"

namespace lightops::cuda {
namespace {

constexpr int kThreads = 256;

// dy with zeros between its pixels: out[y * stride_h, x * stride_w] = in[y, x].
struct SpreadArgs {
  View in, out;
  int64_t chunks;  // of all pixels
  int row_chunks;  // of a pixel
  int stride_h, stride_w;
};

// One thread per 16-byte chunk of the output. Bits are moved, not numbers: one kernel serves both 16-bit types.
template <class Math>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kThreads, 4) spread_kernel(LIGHTOPS_PARAMS(SpreadArgs) a) {
  const int64_t index = static_cast<int64_t>(block_x()) * kThreads + thread_index();
  const bool on = index < a.chunks;
  const int64_t pixel = on ? index / a.row_chunks : 0;
  const int c = on ? static_cast<int>(index - pixel * a.row_chunks) * kChunkElements<Math> : 0;
  const int64_t line = pixel / a.out.width;
  const int x = static_cast<int>(pixel - line * a.out.width), image = static_cast<int>(line / a.out.height);
  const int y = static_cast<int>(line - static_cast<int64_t>(image) * a.out.height);
  const int from_y = y / a.stride_h, from_x = x / a.stride_w;
  const bool has =
      on && from_y < a.in.height && from_x < a.in.width && from_y * a.stride_h == y && from_x * a.stride_w == x;
  const int64_t from = has ? pixel_offset(a.in, image, static_cast<int64_t>(from_y) * a.in.width + from_x) : 0;
  store_chunk<Math>(a.out, pixel_offset(a.out, image, static_cast<int64_t>(y) * a.out.width + x), c,
                    load_chunk<Math>(a.in, from, c, has), on);
}

Result run_spread(const Nhwc& in, const Nhwc& out, const int64_t (&stride)[2], int bytes, StreamHandle handle) {
  SpreadArgs a{};
  a.in = view_of(in, bytes);
  a.out = view_of(out, bytes);
  a.row_chunks = static_cast<int>(ceil_div(out.c, kChunkBytes / bytes));
  a.chunks = out.n * out.h * out.w * a.row_chunks;
  a.stride_h = static_cast<int>(stride[0]), a.stride_w = static_cast<int>(stride[1]);
  const int64_t blocks = ceil_div(a.chunks, kThreads);
  if (blocks == 0) return {};
  if (blocks >= INT64_C(1) << 31) return {"more than 2^31 - 1 blocks", 0};
  const auto grid = static_cast<unsigned>(blocks);
  const auto stream = static_cast<Stream>(handle);
  return {nullptr, bytes == 2 ? launch<spread_kernel<F16>>(grid, 1, 1, kThreads, 0, stream, a)
                              : launch<spread_kernel<F32>>(grid, 1, 1, kThreads, 0, stream, a)};
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
struct InputPlan {
  ConvProblem conv;
  Nhwc spread;  // dy with zeros between its pixels; null data at stride 1
  void* packed = nullptr;
  void* rest = nullptr;
  int64_t workspace = 0;
};

InputPlan plan_input(const InputGradient& g, void* workspace, const Device& device) {
  InputPlan plan;
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
  plan.rest = pieces.take<unsigned char>(g.through_norm ? masked_gradient_workspace({c, g.norm}, device)
                                                        : conv_workspace(c, device));
  plan.workspace = pieces.used;
  return plan;
}

}  // namespace

bool stores_input_gradient(const InputGradient& g, const Device& device) {
  return !g.through_norm || !masks_in_place({plan_input(g, nullptr, device).conv, g.norm}, device);
}

int64_t input_gradient_workspace(const InputGradient& g, const Device& device) {
  return element_bytes(g.type) ? plan_input(g, nullptr, device).workspace : 0;
}

Result run_input_gradient(const InputGradient& g, void* workspace, const Device& device, StreamHandle stream) {
  if (element_bytes(g.type) == 0) return {"the CUDA kernels take float16, bfloat16 and float32", 0};
  const InputPlan plan = plan_input(g, workspace, device);
  Result result = run_pack(pack_of(g), plan.packed, stream);
  if (result.ok() && strided(g.window))
    result = run_spread(g.dy, plan.spread, g.window.stride, element_bytes(g.type), stream);
  if (!result.ok()) return result;
  return g.through_norm ? run_masked_gradient({plan.conv, g.norm}, plan.rest, device, stream)
                        : run_conv(plan.conv, g.type, device, plan.rest, stream);
}

}  // namespace lightops::cuda
