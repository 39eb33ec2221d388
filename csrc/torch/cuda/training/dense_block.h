#pragma once

#include "../../training/dense_block.h"
#include "common.h"

namespace lightops {
namespace cuda_binding {

using binding::DenseLists;
using binding::OptionalTensors;

// How the tensors of a layer are checked (dense_layers of ../../training/dense_block.h).
struct DenseCheck {
  const Call& call;
  const char* op;

  explicit DenseCheck(const Call& c) : call(c), op(c.op) {}
  const void* vector(const char* name, const OptionalTensor& t, int64_t elements) const {
    return call.vector(name, t, elements);
  }
  TrainWeight weight(const char* name, const Tensor& t, std::initializer_list<int64_t> size) const {
    return weight_of(call, name, t, size);
  }
  Nhwc image(const char* name, const Tensor& t, std::initializer_list<int64_t> size) const {
    return call.image(name, t, size);
  }
};

}  // namespace cuda_binding
}  // namespace lightops
