// Arguments that the forward and the backward binding of a dense block in training share.
#pragma once

#include "common.h"
#include "lightops/training/dense_block.h"

namespace lightops {
namespace binding {

struct DenseArguments {
  std::vector<DenseTrainLayer> layers;
  std::vector<Tensor> keep;
};

// Checks and fills everything but the tensors that are the op's own; norms with batch statistics get those at `mean`,
// `variance` (of the buffer) and `middle_mean`, `middle_variance`.
void dense_layers(const char* op, const std::vector<OptionalTensor>& params, const std::vector<double>& eps,
                  const std::vector<OptionalTensor>& frozen, const std::vector<OptionalTensor>& masks, ScalarType scalar,
                  DenseBlockTrainParams* p, DenseArguments* out);

// Multiply-adds of one forward pass.
int64_t dense_work(const DenseBlockTrainParams& p);

}  // namespace binding
}  // namespace lightops
