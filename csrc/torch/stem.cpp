#include "lightops/stem.h"

#include "chain.h"

namespace lightops {
namespace binding {
namespace {

struct Sizes { int64_t n, c, h, w; };

Sizes fill(const char* op, const Tensor& x, const Tensor& w, const OptionalTensor& bias, int64_t out_channels,
           const Ints& kernel, const Ints& stride, const Ints& padding, int64_t act, const Ints& pool, StemParams* p) {
  STD_TORCH_CHECK(x.is_cpu() && x.dim() == 4, "lightops::", op, ": 'x' has shape ", shape_of(x),
                  "; want 4 dimensions on the CPU");
  p->planar = x.size(1) > 1 && x.is_contiguous();
  if (p->planar) {
    p->x.data = x.data_ptr();
    p->x.n = x.size(0);
    p->x.c = x.size(1);
    p->x.h = x.size(2);
    p->x.w = x.size(3);
  } else {
    p->x = image_of(op, "x", x);
  }
  p->type = dtype_of(op, "x", x);
  p->window = window_of(op, kernel, stride, padding, {1, 1});
  check_fits(op, p->window, p->x);
  p->pairs = pairs_of(op, "w", w, p->type);
  p->weight = weight_of(op, "w", w, p->type, p->pairs, out_channels, p->pairs ? round_up(p->x.c, 2) : p->x.c, kernel[0],
                        kernel[1]);
  p->bias = data_of(op, "bias", bias, p->type, out_channels);
  p->act = act_of(op, "act", act);
  Sizes out{p->x.n, out_channels, p->window.out(0, p->x.h), p->window.out(1, p->x.w)};
  p->pooled = !pool.empty();
  if (p->pooled) {
    STD_TORCH_CHECK(pool.size() == 4 && pool[0] >= 1 && pool[1] >= 1 && pool[2] >= 0 && 2 * pool[2] <= pool[0],
                    "lightops::", op,
                    ": 'pool' must be empty or (kernel >= 1, stride >= 1, 0 <= padding <= kernel / 2, ceil_mode)");
    STD_TORCH_CHECK(out.h + 2 * pool[2] >= pool[0] && out.w + 2 * pool[2] >= pool[0], "lightops::", op,
                    ": the pool covers ", pool[0], " pixels but its padded input is ", out.h + 2 * pool[2], " x ",
                    out.w + 2 * pool[2]);
    for (int axis = 0; axis < 2; ++axis) {
      p->pool.kernel[axis] = pool[0];
      p->pool.stride[axis] = pool[1];
      p->pool.padding[axis] = pool[2];
    }
    out.h = pooled_size(out.h, pool[0], pool[1], pool[2], pool[3] != 0);
    out.w = pooled_size(out.w, pool[0], pool[1], pool[2], pool[3] != 0);
  }
  return out;
}

void launch(const char* op, const Tensor& out, StemParams* p) {
  if (out.numel() == 0) return;
  p->out = image_of(op, "out", out);
  const Window& w = p->window;
  p->parallel =
      parallel_for_work(p->x.n * w.out(0, p->x.h) * w.out(1, p->x.w) * p->out.c * p->x.c * w.kernel[0] * w.kernel[1]);
  p->workspace = workspace(stem_workspace(*p));
  stem_cpu(*p);
}

}  // namespace

Tensor stem(Tensor x, Tensor w, OptionalTensor bias, int64_t out_channels, Ints kernel, Ints stride, Ints padding,
            int64_t act, Ints pool) {
  StemParams p;
  const Sizes s = fill("stem", x, w, bias, out_channels, kernel, stride, padding, act, pool, &p);
  Tensor out = new_image(s.n, s.c, s.h, s.w, x.scalar_type());
  launch("stem", out, &p);
  return out;
}

void stem_out(Tensor x, Tensor w, OptionalTensor bias, Ints kernel, Ints stride, Ints padding, int64_t act, Ints pool,
              Tensor out) {
  const char* op = "stem_out";
  STD_TORCH_CHECK(out.dim() == 4, "lightops::", op, ": 'out' has shape ", shape_of(out), "; want 4 dimensions");
  StemParams p;
  const Sizes s = fill(op, x, w, bias, out.size(1), kernel, stride, padding, act, pool, &p);
  check_size(op, "out", out, {s.n, s.c, s.h, s.w});
  STD_TORCH_CHECK(out.scalar_type() == x.scalar_type(), "lightops::", op, ": 'out' and 'x' differ in type");
  launch(op, out, &p);
}

STABLE_TORCH_LIBRARY_FRAGMENT(lightops, m) {
  m.def(
      "stem(Tensor x, Tensor w, Tensor? bias, int out_channels, int[] kernel, int[] stride, int[] padding, int act, "
      "int[] pool) "
      "-> Tensor");
  m.def(
      "stem_out(Tensor x, Tensor w, Tensor? bias, int[] kernel, int[] stride, int[] padding, int act, int[] pool, "
      "Tensor(a!) out) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) {
  m.impl("stem", TORCH_BOX(&Recordable<&stem>::call));
  m.impl("stem_out", TORCH_BOX(&stem_out));
}

}  // namespace binding
}  // namespace lightops
