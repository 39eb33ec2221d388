// Max-pool between fire modules: memory-bound, so a thread takes one 16-byte chunk of channels of one output pixel, and
// neighbouring threads neighbouring chunks; the windows' overlap is served by the caches.
#include "addressing.cuh"
#include "plan.h"

namespace lightops::cuda {
namespace {

constexpr int kPoolThreads = 256;

struct PoolArgs {
  View x, out;
  Geometry window;
  int chunks;  // of 16 bytes a pixel
  int64_t threads;  // chunks of all output pixels
};

template <class Math>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kPoolThreads, 4) max_pool_kernel(LIGHTOPS_PARAMS(PoolArgs) a) {
  const int64_t index = static_cast<int64_t>(block_x()) * kPoolThreads + thread_index();
  const bool on = index < a.threads;
  const int64_t pixel = on ? index / a.chunks : 0;
  const int channel = static_cast<int>(on ? index - pixel * a.chunks : 0) * kChunkElements<Math>;
  const int pixels = a.out.height * a.out.width, image = static_cast<int>(pixel / pixels);
  const int in_image = static_cast<int>(pixel - static_cast<int64_t>(image) * pixels);
  const int row = in_image / a.out.width, y0 = row * a.window.stride_h - a.window.pad_h;
  const int x0 = (in_image - row * a.out.width) * a.window.stride_w - a.window.pad_w;
  Vec16 best{};
  bool any = false;
  for (int ky = 0; ky < a.window.kernel_h; ++ky)
    for (int kx = 0; kx < a.window.kernel_w; ++kx) {
      const int y = y0 + ky, x = x0 + kx;
      if (y < 0 || y >= a.x.height || x < 0 || x >= a.x.width) continue;
      const Vec16 v = load_chunk<Math>(a.x, pixel_offset(a.x, image, y * a.x.width + x), channel, on);
#pragma unroll
      for (int i = 0; i < 4; ++i) best.w[i] = any ? Math::max_word(best.w[i], v.w[i]) : v.w[i];
      any = true;
    }
  store_chunk<Math>(a.out, pixel_offset(a.out, image, in_image), channel, best, on);
}

}  // namespace

int64_t max_pool2d_cuda_workspace(const MaxPool2dParams&, const Device&) { return 0; }

Result max_pool2d_cuda(const MaxPool2dParams& p, const Device&, StreamHandle stream) {
  const int bytes = element_bytes(p.type);
  if (bytes == 0) return {"the CUDA kernels take float16, bfloat16 and float32", 0};
  if (p.x.h * p.x.w >= INT64_C(1) << 31 || p.out.h * p.out.w >= INT64_C(1) << 31)
    return {"more than 2^31 - 1 pixels an image", 0};
  PoolArgs a{view_of(p.x, bytes), view_of(p.out, bytes), geometry_of(p.window),
             packed_row(p.x.c, bytes) * bytes / kChunkBytes, 0};
  a.threads = p.out.n * p.out.h * p.out.w * a.chunks;
  const int64_t blocks = ceil_div(a.threads, kPoolThreads);
  if (blocks >= INT64_C(1) << 31) return {"more than 2^31 - 1 blocks", 0};
  if (blocks == 0) return {};
  const auto grid = static_cast<unsigned>(blocks);
  const auto on = static_cast<Stream>(stream);
  return {nullptr, p.type == DType::f16    ? launch<max_pool_kernel<F16>>(grid, 1, 1, kPoolThreads, 0, on, a)
                   : p.type == DType::bf16 ? launch<max_pool_kernel<BF16>>(grid, 1, 1, kPoolThreads, 0, on, a)
                                           : launch<max_pool_kernel<F32>>(grid, 1, 1, kPoolThreads, 0, on, a)};
}

}  // namespace lightops::cuda
