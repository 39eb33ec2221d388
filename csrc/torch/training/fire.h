// What the bindings of Fire in training share, on any device.
#pragma once

#include "common.h"
#include "lightops/training/fire.h"

namespace lightops {
namespace binding {

inline void check_fire_weights(const char* op, const Tensor& ws, const Tensor& w1, const Tensor& w3) {
  STD_TORCH_CHECK(ws.dim() == 4 && w1.dim() == 4 && w3.dim() == 4 && ws.numel() > 0 && w1.numel() > 0 && w3.numel() > 0,
                  "lightops::", op, ": 'ws', 'w1', 'w3' have shapes ", shape_of(ws), ", ", shape_of(w1), ", ",
                  shape_of(w3), "; want [S, C, 1, 1], [E1, S, 1, 1], [E3, S, 3, 3]");
}

// The gradients of weights and biases in the order of `needs` behind that of x, each make(size), [0] where it is not
// wanted.
template <class Make>
std::vector<Tensor> fire_gradients(const Tensor& ws, const Tensor& w1, const Tensor& w3, const std::vector<bool>& needs,
                                   const Make& make) {
  std::vector<Tensor> grads;
  const Tensor* const weights[3] = {&ws, &w1, &w3};
  for (size_t i = 0; i < 6; ++i) {
    Ints size = sizes_of(*weights[i / 2]);
    if (i % 2) size.resize(1);  // its bias
    grads.push_back(make(needs[i + 1] ? size : Ints{0}));
  }
  return grads;
}

// Where a kernel writes them.
inline void place_gradients(const std::vector<Tensor>& grads, FireTrainBackwardParams* p) {
  void** const places[6] = {&p->dws, &p->dbs, &p->dw1, &p->db1, &p->dw3, &p->db3};
  for (size_t i = 0; i < 6; ++i) *places[i] = data_or_null(grads[i]);
}

}  // namespace binding
}  // namespace lightops
