// What the training bindings share: the normalisation of a prologue, gradients that may not be wanted.
#pragma once

#include "../common.h"
#include "lightops/training/norm.h"
#include "lightops/training/weight.h"

namespace lightops {
namespace binding {

// mean and var come together or not at all; gamma and beta only with them. vector(name, tensor, elements) checks one of them.
template <class Vector>
Norm norm_from(const char* op, int64_t channels, const OptionalTensor& mean, const OptionalTensor& var,
               const OptionalTensor& gamma, const OptionalTensor& beta, double eps, bool batch, const Vector& vector) {
  STD_TORCH_CHECK(mean.has_value() == var.has_value(), "lightops::", op,
                  ": 'mean' and 'var' must both be given or both be None");
  STD_TORCH_CHECK(mean.has_value() || (!gamma.has_value() && !beta.has_value()), "lightops::", op,
                  ": 'gamma' and 'beta' need 'mean' and 'var'");
  Norm n;
  n.mean = vector("mean", mean, channels);
  n.var = vector("var", var, channels);
  n.gamma = vector("gamma", gamma, channels);
  n.beta = vector("beta", beta, channels);
  n.eps = eps;
  n.batch = batch && n.mean;
  return n;
}
inline Norm norm_of(const char* op, DType type, int64_t channels, const OptionalTensor& mean, const OptionalTensor& var,
                    const OptionalTensor& gamma, const OptionalTensor& beta, double eps, bool batch) {
  return norm_from(op, channels, mean, var, gamma, beta, eps, batch,
                   [&](const char* name, const OptionalTensor& t, int64_t elements) {
                     return data_of(op, name, t, type, elements);
                   });
}

// A second tensor of the same storage type as x.
inline void check_type(const char* op, const char* name, const Tensor& t, const Tensor& x) {
  STD_TORCH_CHECK(t.is_cpu(), "lightops::", op, ": '", name, "' is not on the CPU");
  STD_TORCH_CHECK(t.scalar_type() == x.scalar_type(), "lightops::", op, ": '", name, "' has scalar type ",
                  int(t.scalar_type()), "; want that of 'x', ", int(x.scalar_type()));
}

// The algorithm of the 3x3 convolutions of a block in training, which has no larger tile than 2.
inline Algo train_algo(const char* op, int64_t code) {
  Window three;
  three.kernel[0] = three.kernel[1] = 3;
  const Algo algo = algo_of(op, code, three);
  STD_TORCH_CHECK(algo != Algo::winograd4, "lightops::", op, ": 'algo' is 4; want 0 (direct) or 2 (Winograd tile)");
  return algo;
}

// A convolution's weight [O, I, kh, kw] in the compute type. A sixteen-bit one is converted; `keep` holds the copy.
inline TrainWeight weight_of(const char* op, const char* name, const Tensor& w, ScalarType type,
                             std::initializer_list<int64_t> want, std::vector<Tensor>* keep) {
  check_size(op, name, w, want);
  STD_TORCH_CHECK(w.is_cpu() && w.scalar_type() == type, "lightops::", op, ": '", name, "' has scalar type ",
                  int(w.scalar_type()), "; want a CPU tensor of the type of 'x', ", int(type));
  const ScalarType compute = compute_type(dtype_of(op, name, w));
  keep->push_back(type == compute ? w : torch::stable::to(w, compute));
  TrainWeight v;
  v.data = keep->back().data_ptr();
  for (int i = 0; i < 4; ++i) v.stride[i] = keep->back().stride(i);
  return v;
}

inline Tensor new_vector(int64_t elements, ScalarType type) { return new_tensor({elements}, type); }

// The second half of a backward op whose gradients are those of x, gamma and beta: allocates them, fills `p` and runs the kernel.
// `passes` are how often the kernel reads or writes an element of x.
template <class Params>
std::tuple<Tensor, Tensor, Tensor> norm_gradients(const char* op, const Tensor& x, int64_t passes, Params& p,
                                                  int64_t (*bytes)(const Params&), Status (*kernel)(const Params&)) {
  const int64_t vectors = p.norm.mean ? p.x.c : 0;
  Tensor dx = new_image(p.x.n, p.x.c, p.x.h, p.x.w, x.scalar_type());
  Tensor dgamma = new_vector(vectors, compute_type(p.type)), dbeta = new_vector(vectors, compute_type(p.type));
  if (x.numel() == 0) return {dx, torch::stable::zero_(dgamma), torch::stable::zero_(dbeta)};
  p.dx = image_of(op, "dx", dx);
  p.dgamma = data_or_null(dgamma);
  p.dbeta = data_or_null(dbeta);
  p.parallel = parallel_for_work(passes * x.numel() * kWorkPerElement);
  p.workspace = workspace(bytes(p));
  kernel(p);
  return {dx, dgamma, dbeta};
}

}  // namespace binding
}  // namespace lightops
