// Columns and pixels are shared out as in every pass over a tensor (channel_pass.h).
#include "training/elementwise.h"

#include "plan.h"
#include "training/channel_pass.cuh"

namespace lightops::cuda {
namespace {

struct MultiplyArgs {
  ChannelPass pass;
  View x, mask, out;
};

struct ZeroArgs {
  float* to;
  int64_t elements;
};

// Grid: x = group of columns, y = part.
template <class Math>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kPassThreads, 3) multiply_kernel(LIGHTOPS_PARAMS(MultiplyArgs) a) {
  constexpr int kElements = kChunkElements<Math>, kBatch = 2;
  const PassThread<Math> thread(a.pass, a.x.channels, block_y());
  const int c = thread.channel;
  const bool masked = a.mask.data;
  Vec16 raw[kBatch], other[kBatch];
  thread.template each<kBatch>(
      [&](int i, Pixel p) {
        raw[i] = load_chunk<Math>(a.x, offset_of(a.x, p), c, p.on);
        other[i] = load_chunk<Math>(a.mask, offset_of(a.mask, p), c, p.on && masked);
      },
      [&](int i, Pixel p) {
        float v[kElements], factor[kElements];
        unpack<Math>(raw[i], v);
        unpack<Math>(other[i], factor);
#pragma unroll
        for (int e = 0; e < kElements; ++e) v[e] *= factor[e];
        store_chunk<Math>(a.out, offset_of(a.out, p), c, masked ? pack<Math>(v) : raw[i], true);
      });
}

LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kPassThreads, 1) zero_kernel(LIGHTOPS_PARAMS(ZeroArgs) a) {
  const int64_t index = static_cast<int64_t>(block_x()) * kPassThreads + thread_index();
  const bool on = index < a.elements;
  store_global(a.to + (on ? index : 0), 0.f, on);
}

template <class Math>
int launch_multiply(const MultiplyArgs& a, Stream stream) {
  return launch<multiply_kernel<Math>>(a.pass.groups, a.pass.parts, 1, kPassThreads, 0, stream, a);
}

}  // namespace

Result run_multiply(const Nhwc& tensor, const Nhwc& by, const Nhwc& to, DType type, StreamHandle stream) {
  if (const char* refusal = pass_refusal(tensor, type)) return {refusal, 0};
  const int bytes = element_bytes(type);
  Nhwc x = tensor, mask = by, out = to;
  join_images({&x, &mask, &out});
  const MultiplyArgs a{plan_pass(x, bytes), view_of(x, bytes), view_of(mask, bytes), view_of(out, bytes)};
  const auto on = static_cast<Stream>(stream);
  return {nullptr, type == DType::f16    ? launch_multiply<F16>(a, on)
                   : type == DType::bf16 ? launch_multiply<BF16>(a, on)
                                         : launch_multiply<F32>(a, on)};
}

Result run_zero(float* to, int64_t elements, StreamHandle stream) {
  const ZeroArgs a{to, elements};
  const auto blocks = static_cast<unsigned>(ceil_div(elements, kPassThreads));
  return {nullptr, launch<zero_kernel>(blocks, 1, 1, kPassThreads, 0, static_cast<Stream>(stream), a)};
}

}  // namespace lightops::cuda
