#include "training/depthwise_pass.h"

#include <algorithm>

#include "plan.h"

namespace lightops::cuda {

DepthwisePass plan_depthwise(int64_t images, int64_t cell_rows, int64_t cell_columns, int64_t channels, int cells,
                             int64_t blocks) {
  // A strip's window overhangs it: the more rows the better, as long as there are threads enough (132 multiprocessors x 1024).
  constexpr int64_t kMostRows = 28, kLeastRows = 7, kThreads = 1 << 17;
  DepthwisePass s{};
  const int64_t pairs = ceil_div(channels, 2);
  s.columns = static_cast<int>(ceil_div(pairs, ceil_div(pairs, 32)));
  s.lanes = kDepthwiseThreads / s.columns;
  s.groups = static_cast<int>(ceil_div(pairs, s.columns));
  s.across = static_cast<int>(ceil_div(cell_columns, cells));
  int64_t strips = ceil_div(cell_rows, kMostRows);
  while (images * strips * s.across * pairs < kThreads && ceil_div(cell_rows, strips) > kLeastRows) ++strips;
  s.rows = static_cast<int>(ceil_div(cell_rows, strips));
  s.strips = static_cast<int>(ceil_div(cell_rows, s.rows));
  s.items = static_cast<int>(images * s.strips * s.across);
  const int64_t parts = std::max<int64_t>(1, blocks / s.groups);
  s.step = static_cast<int>(round_up(ceil_div(s.items, parts), s.lanes));
  s.parts = static_cast<int>(ceil_div(s.items, s.step));
  return s;
}

bool goes_in_strips(std::initializer_list<Nhwc> tensors, const Window& w, Act act, int bytes) {
  for (const Nhwc& t : tensors) {
    const bool pairs = t.c % 2 == 0 && t.pixel % 2 == 0 && (t.n <= 1 || t.image % 2 == 0) &&
                       reinterpret_cast<std::uintptr_t>(t.data) % (2 * bytes) == 0;
    if (t.data && !pairs) return false;
  }
  for (int axis = 0; axis < 2; ++axis) {
    if (w.kernel[axis] != w.kernel[0] || w.stride[axis] != w.stride[0]) return false;
    if (w.dilation[axis] != 1 || w.padding[axis] >= w.kernel[axis]) return false;
  }
  return (w.kernel[0] == 3 || w.kernel[0] == 5) && w.stride[0] <= 2 && act <= Act::relu6;
}

}  // namespace lightops::cuda
