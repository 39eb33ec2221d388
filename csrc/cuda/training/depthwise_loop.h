// Depthwise kernels for what the strips of depthwise_pass.h do not serve: any window, odd channel counts, smooth activations. A thread
// has a 16-byte chunk of a pixel and loops over the taps; neighbours come from the caches.
#pragma once

#include "training/depthwise_pass.h"

namespace lightops::cuda {

struct DepthwiseLoopArgs {
  DepthwiseArgs of;
  ChannelPass pass;
  Geometry window;
};

// `pass` goes over the pixels of y.
int launch_depthwise_loop(const DepthwiseLoopArgs& a, DType type, StreamHandle stream);
int launch_depthwise_loop_weights(const DepthwiseLoopArgs& a, DType type, StreamHandle stream);
// Over those of x: the norm's sums, or dx.
int launch_depthwise_loop_gradient(const DepthwiseLoopArgs& a, DType type, bool sums, StreamHandle stream);

}  // namespace lightops::cuda
