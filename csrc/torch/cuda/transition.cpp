#include "common.h"

namespace lightops {
namespace cuda_binding {
namespace {

TransitionParams fill(const Call& call, const Tensor& x, const Tensor& scale, const Tensor& shift, const Tensor& w,
                      const OptionalTensor& bias, int64_t out_channels) {
  TransitionParams p;
  p.x = call.image("x", x);
  p.type = call.type;
  STD_TORCH_CHECK(p.x.h >= 2 && p.x.w >= 2, "lightops::", call.op, ": 'x' has shape ", binding::shape_of(x),
                  "; a 2x2 pool needs 2 rows and 2 columns");
  p.scale = call.vector("scale", scale, p.x.c);
  p.shift = call.vector("shift", shift, p.x.c);
  p.weight = call.weight("w", w, 1, out_channels, p.x.c);
  p.bias = call.vector("bias", bias, out_channels);
  return p;
}

void launch(const Call& call, const Tensor& out, TransitionParams p) {
  if (out.numel() == 0) return;
  p.out = call.image("out", out);
  call.run(p, cuda::transition_cuda_workspace, cuda::transition_cuda);
}

Tensor transition(Tensor x, Tensor scale, Tensor shift, Tensor w, OptionalTensor bias, int64_t out_channels) {
  const Call call("transition", x);
  const TransitionParams p = fill(call, x, scale, shift, w, bias, out_channels);
  Tensor out = call.new_image(p.x.n, out_channels, p.x.h / 2, p.x.w / 2);
  launch(call, out, p);
  return out;
}

void transition_out(Tensor x, Tensor scale, Tensor shift, Tensor w, OptionalTensor bias, Tensor out) {
  const Call call("transition_out", x);
  STD_TORCH_CHECK(out.dim() == 4, "lightops::", call.op, ": 'out' has shape ", binding::shape_of(out),
                  "; want 4 dimensions");
  const TransitionParams p = fill(call, x, scale, shift, w, bias, out.size(1));
  call.image("out", out, {p.x.n, out.size(1), p.x.h / 2, p.x.w / 2});
  launch(call, out, p);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lightops, LIGHTOPS_CUDA_KEY, m) {
  m.impl("transition", TORCH_BOX(&transition));
  m.impl("transition_out", TORCH_BOX(&transition_out));
}

}  // namespace cuda_binding
}  // namespace lightops
