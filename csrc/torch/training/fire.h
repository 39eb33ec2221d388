#pragma once

#include "common.h"

namespace lightops {
namespace binding {

inline void check_fire_weights(const char* op, const Tensor& ws, const Tensor& w1, const Tensor& w3) {
  STD_TORCH_CHECK(ws.dim() == 4 && w1.dim() == 4 && w3.dim() == 4 && ws.numel() > 0 && w1.numel() > 0 && w3.numel() > 0,
                  "lightops::", op, ": 'ws', 'w1', 'w3' have shapes ", shape_of(ws), ", ", shape_of(w1), ", ",
                  shape_of(w3), "; want [S, C, 1, 1], [E1, S, 1, 1], [E3, S, 3, 3]");
}

}  // namespace binding
}  // namespace lightops
