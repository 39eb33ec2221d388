// Folding and packing weights, once per parameter change.
#pragma once

#include "lightops/common.h"

namespace lightops {

// weight [O, I, kh, kw] (any strides, any type; w *= scale[o] in double) -> panels, see common.h. Winograd forms hold
// G w G^T per tile position, followed by the direct panels: the kernels fall back on those where a tile meets NaN or Inf.
//
// packed_type bf16: neighbours along K side by side, [ceil(O/32)][K/2][32][2], for products that read bfloat16 in pairs.
// Direct only. An odd I is made even by a channel of zeros.
struct PackConv2dParams {
  const void* weight = nullptr;
  DType weight_type = DType::f32;
  int64_t out = 0, in = 0, kh = 0, kw = 0;
  int64_t stride[4] = {0, 0, 0, 0};  // of weight, elements
  const double* scale = nullptr;     // [O] or null
  Algo algo = Algo::direct;
  void* packed = nullptr;            // packed_numel() elements
  DType packed_type = DType::f32;    // f32, f64 or bf16
};

int64_t packed_numel(int64_t out, int64_t in, int64_t kh, int64_t kw, int algo, bool pairs = false);
Status pack_conv2d(const PackConv2dParams& p);

// weight [C, 1, kh, kw] -> groups of 16 channels, see common.h.
struct PackDepthwiseParams {
  const void* weight = nullptr;
  DType weight_type = DType::f32;
  int64_t channels = 0, kh = 0, kw = 0;
  int64_t stride[4] = {0, 0, 0, 0};
  const double* scale = nullptr;
  void* packed = nullptr;
  DType packed_type = DType::f32;
};

Status pack_depthwise(const PackDepthwiseParams& p);

}  // namespace lightops
