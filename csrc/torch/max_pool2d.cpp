#include "lightops/max_pool2d.h"

#include "common.h"

namespace lightops {
namespace binding {
namespace {

// A pool waits for memory, not for arithmetic: an element read costs about what this many multiply-adds do.
constexpr int64_t kWorkPerElement = 8;

}  // namespace

Tensor max_pool2d(Tensor x, Ints kernel, Ints stride, Ints padding, bool ceil_mode) {
  const char* op = "max_pool2d";
  MaxPool2dParams p;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  p.window = window_of(op, kernel, stride, padding, {1, 1});
  int64_t size[2];
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t in = axis ? p.x.w : p.x.h, k = p.window.kernel[axis], s = p.window.stride[axis],
                  pad = p.window.padding[axis];
    STD_TORCH_CHECK(2 * pad <= k, "lightops::", op, ": 'padding' is ", pad, "; want at most half of 'kernel', ", k);
    STD_TORCH_CHECK(in > 0 && in + 2 * pad + (ceil_mode ? s - 1 : 0) >= k, "lightops::", op, ": the kernel covers ", k,
                    axis ? " columns" : " rows", " but the padded input has ", in + 2 * pad);
    size[axis] = pooled_size(in, k, s, pad, ceil_mode);
  }
  Tensor out = new_image(p.x.n, p.x.c, size[0], size[1], x.scalar_type());
  if (out.numel() == 0) return out;
  p.out = image_of(op, "out", out);
  p.parallel = parallel_for_work(x.numel() * kWorkPerElement);
  p.workspace = workspace(max_pool2d_workspace(p));
  max_pool2d_cpu(p);
  return out;
}

STABLE_TORCH_LIBRARY_FRAGMENT(lightops, m) {
  m.def("max_pool2d(Tensor x, int[] kernel, int[] stride, int[] padding, bool ceil_mode) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) { m.impl("max_pool2d", TORCH_BOX(&max_pool2d)); }

}  // namespace binding
}  // namespace lightops
