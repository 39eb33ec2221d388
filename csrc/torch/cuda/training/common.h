// What the CUDA bindings of training share: the normalisation of a prologue, its gradients. Beside torch/training/common.h.
#pragma once

#include "../common.h"
#include "lightops/training/cuda.h"

namespace lightops {
namespace cuda_binding {

// mean and var come together or not at all; gamma and beta only with them.
inline Norm norm_of(const Call& call, int64_t channels, const OptionalTensor& mean, const OptionalTensor& var, const OptionalTensor& gamma,
                    const OptionalTensor& beta, double eps, bool batch) {
  STD_TORCH_CHECK(mean.has_value() == var.has_value(), "lightops::", call.op, ": 'mean' and 'var' must both be given or both be None");
  STD_TORCH_CHECK(mean.has_value() || (!gamma.has_value() && !beta.has_value()), "lightops::", call.op,
                  ": 'gamma' and 'beta' need 'mean' and 'var'");
  Norm n;
  n.mean = call.vector("mean", mean, channels);
  n.var = call.vector("var", var, channels);
  n.gamma = call.vector("gamma", gamma, channels);
  n.beta = call.vector("beta", beta, channels);
  n.eps = eps;
  n.batch = batch && n.mean;
  return n;
}

// Sums and statistics.
inline Tensor new_vector(const Call& call, int64_t elements) { return call.new_tensor({elements}, ScalarType::Float); }

// The second half of a backward op whose gradients are those of x, gamma and beta: allocates them, fills `p` and runs the kernels.
template <class Params>
std::tuple<Tensor, Tensor, Tensor> norm_gradients(const Call& call, Params& p, int64_t (*workspace)(const Params&, const cuda::Device&),
                                                  cuda::Result (*launch)(const Params&, const cuda::Device&, cuda::StreamHandle)) {
  const int64_t vectors = p.norm.mean ? p.x.c : 0;
  Tensor dx = call.new_image(p.x.n, p.x.c, p.x.h, p.x.w);
  Tensor dgamma = new_vector(call, vectors), dbeta = new_vector(call, vectors);
  if (dx.numel() == 0) return {dx, torch::stable::zero_(dgamma), torch::stable::zero_(dbeta)};
  p.dx = call.image("dx", dx);
  p.dgamma = vectors ? dgamma.data_ptr() : nullptr;
  p.dbeta = vectors ? dbeta.data_ptr() : nullptr;
  call.run(p, workspace, launch);
  return {dx, dgamma, dbeta};
}

}  // namespace cuda_binding
}  // namespace lightops
