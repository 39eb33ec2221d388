// act(norm(x)) + residual: one pass, every tensor once. The backward pass is norm.cu's.
#include "lightops/training/cuda.h"
#include "plan.h"
#include "training/channel_pass.cuh"
#include "training/norm.h"

namespace lightops::cuda {
namespace {

struct BnActArgs {
  ChannelPass pass;
  View x, residual, out;
  NormArgs norm;
  int act;
};

// Grid: x = group of columns, y = part.
template <class Math>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kPassThreads, 3) bn_act_kernel(LIGHTOPS_PARAMS(BnActArgs) a) {
  constexpr int kElements = kChunkElements<Math>, kBatch = 2;
  const PassThread<Math> thread(a.pass, a.x.channels, block_y());
  const int c = thread.channel;
  const ThreadNorm<kElements> norm(a.norm, c, a.x.channels, thread.on);
  const Activation<Math> act(a.act);
  const bool add = a.residual.data;
  Vec16 raw[kBatch], other[kBatch];
  thread.template each<kBatch>(
      [&](int i, Pixel p) {
        raw[i] = load_chunk<Math>(a.x, offset_of(a.x, p), c, p.on);
        other[i] = load_chunk<Math>(a.residual, offset_of(a.residual, p), c, p.on && add);
      },
      [&](int i, Pixel p) {
        float v[kElements], more[kElements];
        unpack<Math>(raw[i], v);
        norm.apply(v);
        act.apply(v);
        unpack<Math>(other[i], more);
#pragma unroll
        for (int e = 0; e < kElements; ++e) v[e] = add ? v[e] + more[e] : v[e];
        store_chunk<Math>(a.out, offset_of(a.out, p), c, pack<Math>(v), true);
      });
}

template <class Math>
int launch_bn_act(const BnActArgs& a, Stream stream) {
  return launch<bn_act_kernel<Math>>(a.pass.groups, a.pass.parts, 1, kPassThreads, 0, stream, a);
}

NormGradient gradient_of(const BnActBackwardParams& p) {
  return norm_gradient(p.dy, p.x, p.dx, p.type, p.norm, p.act, static_cast<float*>(p.dgamma),
                       static_cast<float*>(p.dbeta));
}

}  // namespace

int64_t bn_act_cuda_workspace(const BnActParams&, const Device&) { return 0; }

Result bn_act_cuda(const BnActParams& p, const Device&, StreamHandle stream) {
  if (const char* refusal = pass_refusal(p.x, p.type)) return {refusal, 0};
  const int bytes = element_bytes(p.type);
  Nhwc x = p.x, residual = p.residual, out = p.out;
  join_images({&x, &residual, &out});
  BnActArgs a{plan_pass(x, bytes), view_of(x, bytes), view_of(residual, bytes),
              view_of(out, bytes), norm_args(p.norm), static_cast<int>(p.act)};
  const auto on = static_cast<Stream>(stream);
  return {nullptr, p.type == DType::f16    ? launch_bn_act<F16>(a, on)
                   : p.type == DType::bf16 ? launch_bn_act<BF16>(a, on)
                                           : launch_bn_act<F32>(a, on)};
}

int64_t bn_act_backward_cuda_workspace(const BnActBackwardParams& p, const Device& device) {
  return norm_backward_workspace(gradient_of(p), device);
}

Result bn_act_backward_cuda(const BnActBackwardParams& p, const Device& device, StreamHandle stream) {
  return run_norm_backward(gradient_of(p), p.workspace, device, stream);
}

}  // namespace lightops::cuda
