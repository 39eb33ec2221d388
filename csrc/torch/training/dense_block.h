// Arguments that the forward and the backward binding of a dense block in training share.
#pragma once

#include "common.h"
#include "lightops/training/dense_block.h"

namespace lightops {
namespace binding {

// A convolution's weight [O, I, kh, kw] in the compute type. Sixteen-bit weights are converted, `keep` holds the copy.
TrainWeight weight_of(const char* op, const char* name, const OptionalTensor& w, ScalarType type,
                      std::initializer_list<int64_t> want, std::vector<Tensor>* keep);

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
