#include "lightops/transition.h"

#include "chain.h"

namespace lightops {
namespace binding {
namespace {

TransitionParams fill(const char* op, const Tensor& x, const Tensor& scale, const Tensor& shift, const Tensor& w,
                      const OptionalTensor& bias, int64_t out_channels) {
  TransitionParams p;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  STD_TORCH_CHECK(p.x.h >= 2 && p.x.w >= 2, "lightops::", op, ": 'x' has shape ", shape_of(x),
                  "; a 2x2 pool needs 2 rows and 2 columns");
  p.scale = data_of(op, "scale", scale, p.type, p.x.c);
  p.shift = data_of(op, "shift", shift, p.type, p.x.c);
  p.pairs = pairs_of(op, "w", w, p.type);
  p.weight = weight_of(op, "w", w, p.type, p.pairs, out_channels, p.x.c);
  p.bias = data_of(op, "bias", bias, p.type, out_channels);
  return p;
}

void launch(const char* op, const Tensor& out, TransitionParams* p) {
  if (out.numel() == 0) return;
  p->out = image_of(op, "out", out);
  p->parallel = parallel_for_work(out.numel() * p->x.c);
  p->workspace = workspace(transition_workspace(*p));
  transition_cpu(*p);
}

}  // namespace

Tensor transition(Tensor x, Tensor scale, Tensor shift, Tensor w, OptionalTensor bias, int64_t out_channels) {
  const char* op = "transition";
  TransitionParams p = fill(op, x, scale, shift, w, bias, out_channels);
  Tensor out = new_image(p.x.n, out_channels, p.x.h / 2, p.x.w / 2, x.scalar_type());
  launch(op, out, &p);
  return out;
}

void transition_out(Tensor x, Tensor scale, Tensor shift, Tensor w, OptionalTensor bias, Tensor out) {
  const char* op = "transition_out";
  STD_TORCH_CHECK(out.dim() == 4, "lightops::", op, ": 'out' has shape ", shape_of(out), "; want 4 dimensions");
  TransitionParams p = fill(op, x, scale, shift, w, bias, out.size(1));
  check_size(op, "out", out, {p.x.n, out.size(1), p.x.h / 2, p.x.w / 2});
  STD_TORCH_CHECK(out.scalar_type() == x.scalar_type(), "lightops::", op, ": 'out' and 'x' differ in type");
  launch(op, out, &p);
}

STABLE_TORCH_LIBRARY_FRAGMENT(lightops, m) {
  m.def("transition(Tensor x, Tensor scale, Tensor shift, Tensor w, Tensor? bias, int out_channels) -> Tensor");
  m.def("transition_out(Tensor x, Tensor scale, Tensor shift, Tensor w, Tensor? bias, Tensor(a!) out) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) {
  m.impl("transition", TORCH_BOX(&Recordable<&transition>::call));
  m.impl("transition_out", TORCH_BOX(&transition_out));
}

}  // namespace binding
}  // namespace lightops
