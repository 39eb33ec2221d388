#include "lightops/max_pool2d.h"

#include "chain.h"

namespace lightops {
namespace binding {

Tensor max_pool2d(Tensor x, Ints kernel, Ints stride, Ints padding, bool ceil_mode) {
  const char* op = "max_pool2d";
  MaxPool2dParams p;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  p.window = window_of(op, kernel, stride, padding, {1, 1});
  const PooledSize size = check_pool(op, p.window, p.x, ceil_mode);
  Tensor out = new_image(p.x.n, p.x.c, size.h, size.w, x.scalar_type());
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
STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) { m.impl("max_pool2d", TORCH_BOX(&Recordable<&max_pool2d>::call)); }

}  // namespace binding
}  // namespace lightops
