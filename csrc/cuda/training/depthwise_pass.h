// How a depthwise pass is shared out, from sizes alone. A thread has two neighbouring channels of a few neighbouring cells of a row
// and goes down a strip of rows with the window in registers: what it reads it reads once a strip, neighbours' columns come from L1.
// A cell is a pixel of y; seen from x it is stride x stride pixels.
#pragma once

#include "training/channel_pass.h"

namespace lightops::cuda {

constexpr int kDepthwiseThreads = 128;
// Cells of a thread. Fewer where the window takes the registers.
constexpr int depthwise_cells(int kernel, int stride) { return kernel == 3 && stride == 1 ? 4 : 2; }

struct DepthwisePass {
  int columns, lanes;  // pairs of channels, and items in hand at a time
  int groups;  // of columns: grid x
  int parts;  // grid y
  int items, step;  // (image, strip, group of cells) in all, and of a part
  int strips, rows;  // of cells
  int across;  // groups of cells in a row
};
// Whether the kernels that go down strips serve a problem: 3x3 and 5x5 at stride 1 and 2, pairs of channels aligned in all of the
// tensors (null data: ignored), an activation that is a clamp. depthwise_loop.h serves the others.
bool goes_in_strips(std::initializer_list<Nhwc> tensors, const Window& window, Act act, int element_bytes);
// `blocks`: how many the grid is meant to have.
DepthwisePass plan_depthwise(int64_t images, int64_t cell_rows, int64_t cell_columns, int64_t channels, int cells,
                             int64_t blocks);

struct DepthwiseArgs {
  DepthwisePass pass;
  View x, y;  // y: the output, or its gradient
  NormArgs norm;
  int act;
  int pad_h, pad_w;
  const unsigned char *weight, *bias;  // [C][taps]; [C] or null
  // Forward, null without statistics: moments [parts][2][C], counts [parts].
  float *moments, *counts;
  // Backward.
  View dx;  // null data: not wanted in this pass
  float *sums, *weights;  // [parts][2][C]; [parts][taps + 1][C], the last the bias
  const float *slope, *constant;  // of dx, or null
};

}  // namespace lightops::cuda
