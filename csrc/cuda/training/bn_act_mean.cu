// The head: a block averages a group of columns of one image. Backward, the gradient is the same all over an image: norm.cu reads it
// with a pixel stride of zero.
#include "lightops/training/cuda.h"
#include "plan.h"
#include "training/channel_pass.cuh"
#include "training/norm.h"

namespace lightops::cuda {
namespace {

struct BnActMeanArgs {
  ChannelPass pass;  // of one image, in one part
  View x;
  NormArgs norm;
  int act;
  unsigned char* out;  // [images][channels]
};

// Grid: x = group of columns, y = image.
template <class Math>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kPassThreads, 3) bn_act_mean_kernel(LIGHTOPS_PARAMS(BnActMeanArgs) a) {
  constexpr int kElements = kChunkElements<Math>, kBatch = 4;
  const PassThread<Math> thread(a.pass, a.x.channels, 0);
  const ThreadNorm<kElements> norm(a.norm, thread.channel, a.x.channels, thread.on);
  const Activation<Math> act(a.act);
  const int64_t image = block_y();
  float sums[1][kElements] = {};
  Vec16 raw[kBatch];
  thread.template each<kBatch>(
      [&](int i, Pixel p) {
        raw[i] = load_chunk<Math>(a.x, image * a.x.image + offset_of(a.x, p), thread.channel, p.on);
      },
      [&](int i, Pixel) {
        float v[kElements];
        unpack<Math>(raw[i], v);
        norm.apply(v);
        act.apply(v);
#pragma unroll
        for (int e = 0; e < kElements; ++e) sums[0][e] += v[e];
      });
  const int first = block_x() * a.pass.columns * kElements;
  sum_lanes(a.pass, sums, [&](int channel, const float (&total)[1]) {
    const int c = first + channel;
    auto* const out = reinterpret_cast<typename Math::Store*>(a.out) + image * a.x.channels + c;
    store_global(out, Math::store(total[0] / static_cast<float>(a.pass.pixels)), c < a.x.channels);
  });
}

template <class Math>
int launch_mean(const BnActMeanArgs& a, int64_t images, Stream stream) {
  return launch<bn_act_mean_kernel<Math>>(a.pass.groups, static_cast<unsigned>(images), 1, kPassThreads,
                                          kSumBytes<kChunkElements<Math>, 1>, stream, a);
}

NormGradient gradient_of(const BnActMeanBackwardParams& p) {
  const Nhwc dy{const_cast<void*>(p.dy), p.x.n, p.x.h, p.x.w, p.x.c, 0, p.x.c};
  NormGradient g =
      norm_gradient(dy, p.x, p.dx, p.type, p.norm, p.act, static_cast<float*>(p.dgamma), static_cast<float*>(p.dbeta));
  g.gain = 1.f / static_cast<float>(p.x.h * p.x.w);
  return g;
}

}  // namespace

int64_t bn_act_mean_cuda_workspace(const BnActMeanParams&, const Device&) { return 0; }

Result bn_act_mean_cuda(const BnActMeanParams& p, const Device&, StreamHandle stream) {
  if (const char* refusal = pass_refusal(p.x, p.type)) return {refusal, 0};
  if (p.x.n > 65535) return {"more than 65535 images", 0};
  const int bytes = element_bytes(p.type);
  Nhwc image = p.x;
  image.n = 1;
  BnActMeanArgs a{plan_pass(image, bytes), view_of(p.x, bytes), norm_args(p.norm), static_cast<int>(p.act),
                  static_cast<unsigned char*>(p.out)};
  a.pass.step = a.pass.pixels;
  a.pass.parts = 1;
  const auto on = static_cast<Stream>(stream);
  return {nullptr, p.type == DType::f16    ? launch_mean<F16>(a, p.x.n, on)
                   : p.type == DType::bf16 ? launch_mean<BF16>(a, p.x.n, on)
                                           : launch_mean<F32>(a, p.x.n, on)};
}

int64_t bn_act_mean_backward_cuda_workspace(const BnActMeanBackwardParams& p, const Device& device) {
  return norm_backward_workspace(gradient_of(p), device);
}

Result bn_act_mean_backward_cuda(const BnActMeanBackwardParams& p, const Device& device, StreamHandle stream) {
  return run_norm_backward(gradient_of(p), p.workspace, device, stream);
}

}  // namespace lightops::cuda
