#include "common.h"

namespace lightops {
namespace cuda_binding {
namespace {

struct Problem {
  StemParams p;
  int64_t h, w;  // of the output
};

Problem fill(const Call& call, const Tensor& x, const Tensor& w, const OptionalTensor& bias, int64_t out_channels,
             const Ints& kernel, const Ints& stride, const Ints& padding, int64_t act, const Ints& pool) {
  Problem q;
  StemParams& p = q.p;
  STD_TORCH_CHECK(x.dim() == 4, "lightops::", call.op, ": 'x' has shape ", binding::shape_of(x), "; want 4 dimensions");
  p.planar = x.size(1) > 1 && x.is_contiguous();
  if (p.planar) {
    p.x.data = x.data_ptr();
    p.x.n = x.size(0), p.x.c = x.size(1), p.x.h = x.size(2), p.x.w = x.size(3);
  } else {
    p.x = call.image("x", x);
  }
  p.type = call.type;
  p.window = binding::window_of(call.op, kernel, stride, padding, {1, 1});
  binding::check_fits(call.op, p.window, p.x);
  p.weight = call.weight("w", w, 1, out_channels, kernel[0] * kernel[1] * p.x.c);
  p.bias = call.vector("bias", bias, out_channels);
  p.act = binding::act_of(call.op, "act", act);
  q.h = p.window.out(0, p.x.h), q.w = p.window.out(1, p.x.w);
  p.pooled = !pool.empty();
  if (p.pooled) {
    STD_TORCH_CHECK(pool.size() == 4 && pool[0] >= 1 && pool[1] >= 1 && pool[2] >= 0 && 2 * pool[2] <= pool[0],
                    "lightops::", call.op,
                    ": 'pool' must be empty or (kernel >= 1, stride >= 1, 0 <= padding <= kernel / 2, ceil_mode)");
    STD_TORCH_CHECK(q.h + 2 * pool[2] >= pool[0] && q.w + 2 * pool[2] >= pool[0], "lightops::", call.op,
                    ": the pool covers ", pool[0], " pixels but its padded input is ", q.h + 2 * pool[2], " x ",
                    q.w + 2 * pool[2]);
    for (int axis = 0; axis < 2; ++axis) {
      p.pool.kernel[axis] = pool[0];
      p.pool.stride[axis] = pool[1];
      p.pool.padding[axis] = pool[2];
    }
    q.h = binding::pooled_size(q.h, pool[0], pool[1], pool[2], pool[3] != 0);
    q.w = binding::pooled_size(q.w, pool[0], pool[1], pool[2], pool[3] != 0);
  }
  return q;
}

void launch(const Call& call, const Tensor& out, StemParams p) {
  if (out.numel() == 0) return;
  p.out = call.image("out", out);
  call.run(p, cuda::stem_cuda_workspace, cuda::stem_cuda);
}

Tensor stem(Tensor x, Tensor w, OptionalTensor bias, int64_t out_channels, Ints kernel, Ints stride, Ints padding,
            int64_t act, Ints pool) {
  const Call call("stem", x);
  const Problem q = fill(call, x, w, bias, out_channels, kernel, stride, padding, act, pool);
  Tensor out = call.new_image(q.p.x.n, out_channels, q.h, q.w);
  launch(call, out, q.p);
  return out;
}

void stem_out(Tensor x, Tensor w, OptionalTensor bias, Ints kernel, Ints stride, Ints padding, int64_t act, Ints pool,
              Tensor out) {
  const Call call("stem_out", x);
  STD_TORCH_CHECK(out.dim() == 4, "lightops::", call.op, ": 'out' has shape ", binding::shape_of(out),
                  "; want 4 dimensions");
  const Problem q = fill(call, x, w, bias, out.size(1), kernel, stride, padding, act, pool);
  call.image("out", out, {q.p.x.n, out.size(1), q.h, q.w});
  launch(call, out, q.p);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lightops, LIGHTOPS_CUDA_KEY, m) {
  m.impl("stem", TORCH_BOX(&stem));
  m.impl("stem_out", TORCH_BOX(&stem_out));
}

}  // namespace cuda_binding
}  // namespace lightops
