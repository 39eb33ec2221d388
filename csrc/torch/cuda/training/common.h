// What the CUDA bindings of training share: the normalisation of a prologue, its gradients. Beside torch/training/common.h.
#pragma once

#include "../../training/common.h"
#include "../common.h"
#include "lightops/training/cuda.h"

namespace lightops {
namespace cuda_binding {

inline Norm norm_of(const Call& call, int64_t channels, const OptionalTensor& mean, const OptionalTensor& var,
                    const OptionalTensor& gamma, const OptionalTensor& beta, double eps, bool batch) {
  return binding::norm_from(
      call.op, channels, mean, var, gamma, beta, eps, batch,
      [&](const char* name, const OptionalTensor& t, int64_t elements) { return call.vector(name, t, elements); });
}

// A convolution's weight as it is, of the type of the activations, by its strides.
inline TrainWeight weight_of(const Call& call, const char* name, const Tensor& t, std::initializer_list<int64_t> size) {
  call.check_like_x(name, t, size);
  return {t.data_ptr(), {t.stride(0), t.stride(1), t.stride(2), t.stride(3)}};
}

using binding::data_or_null;
using binding::sizes_of;

// Sums and statistics.
inline Tensor new_vector(const Call& call, int64_t elements) { return call.new_tensor({elements}, ScalarType::Float); }

// The second half of a backward op whose gradients are those of x, gamma and beta: allocates them, fills `p` and runs the kernels.
template <class Params>
std::tuple<Tensor, Tensor, Tensor> norm_gradients(const Call& call, Params& p,
                                                  int64_t (*workspace)(const Params&, const cuda::Device&),
                                                  cuda::Result (*launch)(const Params&, const cuda::Device&,
                                                                         cuda::StreamHandle)) {
  const int64_t vectors = p.norm.mean ? p.x.c : 0;
  Tensor dx = call.new_image(p.x.n, p.x.c, p.x.h, p.x.w);
  Tensor dgamma = new_vector(call, vectors), dbeta = new_vector(call, vectors);
  if (dx.numel() == 0) return {dx, torch::stable::zero_(dgamma), torch::stable::zero_(dbeta)};
  p.dx = call.image("dx", dx);
  p.dgamma = data_or_null(dgamma);
  p.dbeta = data_or_null(dbeta);
  call.run(p, workspace, launch);
  return {dx, dgamma, dbeta};
}

}  // namespace cuda_binding
}  // namespace lightops
