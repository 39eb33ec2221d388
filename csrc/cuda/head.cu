// Classifier head: the global average of act(x * scale + shift), then the linear layer as a pointwise product over the images.
#include "addressing.cuh"
#include "conv_launch.h"

namespace lightops::cuda {
namespace {

struct AverageArgs {
  View x;
  unsigned char* out;  // [images][out_pitch]
  int64_t out_pitch;
  const float *scale, *shift;
  int act, groups;
};

constexpr int kColumns = 8;  // 16-byte chunks of channels a block covers: one 128-byte line a pixel
constexpr int kPixelLanes = 32;
constexpr int kAverageThreads = kColumns * kPixelLanes;

// Words of shared memory between elements and between pixel lanes, chosen so that both the stores (8 columns x 4 pixel lanes a
// warp) and the loads (consecutive channels) meet 32 different banks.
template <class Math>
constexpr int kElementPitch = kChunkElements<Math> == 8 ? 12 : 8;
template <class Math>
constexpr int kLanePitch = kElementPitch<Math> * kChunkElements<Math> + 8;

// Grid: x = image * groups + group of kColumns chunks. Thread t sums chunk t % 8 over the pixels t / 8, t / 8 + 32, ...;
// shared memory [pixel lane][chunk][element] then joins the pixel lanes, always in the same order.
template <class Math>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kAverageThreads, 1) average_kernel(LIGHTOPS_PARAMS(AverageArgs) a) {
  constexpr int kElements = kChunkElements<Math>;
  const int image = block_x() / a.groups, first = block_x() % a.groups * kColumns * kElements;
  const int lane = thread_index() / kColumns, c = first + thread_index() % kColumns * kElements;
  const int pixels = a.x.height * a.x.width;
  const Activation<Math> act(a.act);
  float scale[kElements], shift[kElements], sum[kElements] = {};
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    scale[e] = a.scale ? load_global(a.scale + c + e, c + e < a.x.channels) : 1.f;
    shift[e] = a.scale ? load_global(a.shift + c + e, c + e < a.x.channels) : 0.f;
  }
  for (int p = lane; p < pixels; p += kPixelLanes) {
    float v[kElements];
    unpack<Math>(load_chunk<Math>(a.x, pixel_offset(a.x, image, p), c, true), v);
#pragma unroll
    for (int e = 0; e < kElements; ++e) v[e] = v[e] * scale[e] + shift[e];
    act.apply(v);
#pragma unroll
    for (int e = 0; e < kElements; ++e) sum[e] += v[e];
  }
  auto* const joined = reinterpret_cast<float*>(shared_memory());
#pragma unroll
  for (int e = 0; e < kElements; ++e)
    store_shared(joined + lane * kLanePitch<Math> + e * kElementPitch<Math> + thread_index() % kColumns, sum[e]);
  sync_threads();
  if (thread_index() < kColumns * kElements) {
    const int column = thread_index() / kElements, e = thread_index() % kElements;
    float total = 0.f;
    for (int l = 0; l < kPixelLanes; ++l)
      total += load_shared<float>(joined + l * kLanePitch<Math> + e * kElementPitch<Math> + column);
    const int channel = first + thread_index();
    auto* const out = reinterpret_cast<typename Math::Store*>(a.out) + image * a.out_pitch + channel;
    store_global(out, Math::store(total / static_cast<float>(pixels)), channel < a.x.channels);
  }
}

template <class Math>
int launch_average(AverageArgs args, int64_t images, StreamHandle stream) {
  constexpr int kElements = kChunkElements<Math>;
  args.groups = static_cast<int>(ceil_div(args.x.channels, kColumns * kElements));
  return launch<average_kernel<Math>>(static_cast<unsigned>(images * args.groups), 1, 1, kAverageThreads,
                                      kPixelLanes * kLanePitch<Math> * 4, static_cast<Stream>(stream), args);
}

int64_t pooled_bytes(const HeadParams& p) {
  return round_up(p.x.n * packed_row(p.x.c, element_bytes(p.type)) * element_bytes(p.type), 256);
}

ConvProblem linear(const HeadParams& p, void* pooled) {
  ConvProblem c;
  c.element_bytes = element_bytes(p.type);
  const int64_t row = packed_row(p.x.c, c.element_bytes);
  c.x = {pooled, p.x.n, 1, 1, p.x.c, row, row};
  c.out = {p.out, p.x.n, 1, 1, p.out_features, p.out_features, p.out_features};
  c.weight = p.weight;
  c.bias = p.bias;
  return c;
}

}  // namespace

int64_t head_cuda_workspace(const HeadParams& p, const Device& device) {
  if (element_bytes(p.type) == 0 || p.weight == nullptr) return 0;
  return pooled_bytes(p) + conv_workspace(linear(p, nullptr), device);
}

Result head_cuda(const HeadParams& p, const Device& device, StreamHandle stream) {
  const int bytes = element_bytes(p.type);
  if (bytes == 0) return {"the CUDA kernels take float16, bfloat16 and float32", 0};
  if (p.x.h * p.x.w >= INT64_C(1) << 31 || p.x.h * p.x.w == 0) return {"an image needs 1 to 2^31 - 1 pixels", 0};
  if (p.x.n == 0 || p.x.c == 0) return {};
  const bool has_linear = p.weight != nullptr;
  AverageArgs args{view_of(p.x, bytes),
                   static_cast<unsigned char*>(has_linear ? p.workspace : p.out),
                   has_linear ? packed_row(p.x.c, bytes) : p.x.c,
                   static_cast<const float*>(p.scale),
                   static_cast<const float*>(p.shift),
                   static_cast<int>(p.act),
                   0};
  if (p.x.n * ceil_div(p.x.c, kColumns * kChunkBytes / bytes) >= INT64_C(1) << 31)
    return {"more than 2^31 - 1 blocks", 0};
  const int error = p.type == DType::f16    ? launch_average<F16>(args, p.x.n, stream)
                    : p.type == DType::bf16 ? launch_average<BF16>(args, p.x.n, stream)
                                            : launch_average<F32>(args, p.x.n, stream);
  if (error || !has_linear) return {nullptr, error};
  unsigned char* const partial = static_cast<unsigned char*>(p.workspace) + pooled_bytes(p);
  return run_conv(linear(p, p.workspace), p.type, device, partial, stream);
}

}  // namespace lightops::cuda
