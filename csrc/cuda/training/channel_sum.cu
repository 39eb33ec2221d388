#include "training/channel_sum.h"

#include "plan.h"
#include "training/channel_pass.cuh"
#include "training/merge.cuh"

namespace lightops::cuda {
namespace {

struct SumArgs {
  ChannelPass pass;
  View x;
  float* sums;  // of every part: [channels]
};

// Grid: x = group of columns, y = part.
template <class Math>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kPassThreads, 4) channel_sum_kernel(LIGHTOPS_PARAMS(SumArgs) a) {
  constexpr int kElements = kChunkElements<Math>, kBatch = 4;
  const PassThread<Math> thread(a.pass, a.x.channels, block_y());
  float sums[1][kElements] = {};
  Vec16 raw[kBatch];
  thread.template each<kBatch>(
      [&](int i, Pixel p) { raw[i] = load_chunk<Math>(a.x, offset_of(a.x, p), thread.channel, p.on); },
      [&](int i, Pixel) {
        float v[kElements];
        unpack<Math>(raw[i], v);
#pragma unroll
        for (int e = 0; e < kElements; ++e) sums[0][e] += v[e];
      });
  const int first = block_x() * a.pass.columns * kElements;
  sum_lanes(a.pass, sums, [&](int channel, const float (&total)[1]) {
    const int c = first + channel;
    store_global(a.sums + static_cast<int64_t>(thread.part) * a.x.channels + c, total[0], c < a.x.channels);
  });
}

template <class Math>
struct SumMerge {
  static constexpr int kKinds = 1;
  const float* sums;
  typename Math::Store* out;
  int channels, parts;

  LIGHTOPS_DEVICE void add(int part, int channel, bool on, double (&total)[kKinds]) const {
    total[0] += load_global(sums + (on ? static_cast<int64_t>(part) * channels + channel : 0), on);
  }
  LIGHTOPS_DEVICE void finish(int channel, const double (&total)[kKinds]) const {
    store_global(out + channel, Math::store(static_cast<float>(total[0])));
  }
};

template <class Math>
int launch_sum(const SumArgs& a, Stream stream) {
  return launch<channel_sum_kernel<Math>>(static_cast<unsigned>(a.pass.groups), static_cast<unsigned>(a.pass.parts), 1,
                                          kPassThreads, kSumBytes<kChunkElements<Math>, 1>, stream, a);
}

template <class Math>
int merge_sums(const float* sums, int parts, int channels, void* out, Stream stream) {
  return launch_merge(SumMerge<Math>{sums, static_cast<typename Math::Store*>(out), channels, parts}, stream);
}

SumArgs plan_sum(Nhwc x, DType type) {
  SumArgs a{};
  join_images({&x});
  a.pass = plan_pass(x, element_bytes(type));
  a.x = view_of(x, element_bytes(type));
  return a;
}

}  // namespace

int64_t channel_sum_workspace(const Nhwc& x, DType type) {
  if (pass_refusal(x, type)) return 0;
  return INT64_C(4) * plan_sum(x, type).pass.parts * x.c;
}

Result run_channel_sum(const Nhwc& x, DType type, void* out, void* workspace, StreamHandle handle) {
  if (const char* refusal = pass_refusal(x, type)) return {refusal, 0};
  SumArgs a = plan_sum(x, type);
  a.sums = static_cast<float*>(workspace);
  const auto stream = static_cast<Stream>(handle);
  const int error = type == DType::f16    ? launch_sum<F16>(a, stream)
                    : type == DType::bf16 ? launch_sum<BF16>(a, stream)
                                          : launch_sum<F32>(a, stream);
  if (error) return {nullptr, error};
  return run_merge_channel_sums(a.sums, a.pass.parts, a.x.channels, type, out, handle);
}

Result run_merge_channel_sums(const float* sums, int parts, int channels, DType type, void* out, StreamHandle handle) {
  const auto stream = static_cast<Stream>(handle);
  return {nullptr, type == DType::f16    ? merge_sums<F16>(sums, parts, channels, out, stream)
                   : type == DType::bf16 ? merge_sums<BF16>(sums, parts, channels, out, stream)
                                         : merge_sums<F32>(sums, parts, channels, out, stream)};
}

}  // namespace lightops::cuda
