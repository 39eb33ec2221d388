// The geometry of bn_act_conv2d.
#pragma once

#include "../common.h"

namespace lightops {
namespace binding {

// What forward and backward of bn_act_conv2d check alike on every device, and the size of y.
struct ConvolutionSize {
  Window window;
  int64_t h, w;
  int64_t work;  // multiply-adds
};

inline ConvolutionSize check_convolution(const char* op, const Nhwc& x, const Tensor& weight, const Ints& stride,
                                         const Ints& padding, const Ints& dilation, int64_t groups, bool pool) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.numel() > 0, "lightops::", op, ": 'weight' has shape ", shape_of(weight),
                  "; want [K, C / groups, kh, kw]");
  STD_TORCH_CHECK(groups == 1 || (groups == x.c && weight.size(0) == x.c), "lightops::", op, ": 'groups' is ", groups,
                  " with ", x.c, " input and ", weight.size(0),
                  " output channels; want 1, or C for C channels in and out");
  STD_TORCH_CHECK(weight.size(1) * groups == x.c, "lightops::", op, ": 'weight' of shape ", shape_of(weight),
                  " with groups ", groups, " expects ", weight.size(1) * groups, " channels, got ", x.c);
  ConvolutionSize g;
  g.window = window_of(op, {weight.size(2), weight.size(3)}, stride, padding, dilation);
  Nhwc u = x;
  if (pool) {
    const Window& w = g.window;
    STD_TORCH_CHECK(groups == 1 && w.kernel[0] == 1 && w.kernel[1] == 1 && w.stride[0] == 1 && w.stride[1] == 1 &&
                        w.padding[0] == 0 && w.padding[1] == 0,
                    "lightops::", op, ": 'pool' needs a 1x1 convolution of groups 1, stride 1 and padding 0");
    u.h /= 2;
    u.w /= 2;
  }
  check_fits(op, g.window, u);
  g.h = g.window.out(0, u.h);
  g.w = g.window.out(1, u.w);
  g.work = x.n * g.h * g.w * weight.numel();
  return g;
}

}  // namespace binding
}  // namespace lightops
