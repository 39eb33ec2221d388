#include "common.h"

namespace lightops {
namespace cuda_binding {
namespace {

std::tuple<Tensor, Tensor> batch_stats(Tensor x) {
  const Call call("batch_stats", x);
  BatchStatsParams p;
  p.x = call.image("x", x);
  p.type = call.type;
  STD_TORCH_CHECK(x.numel() > 0, "lightops::", call.op, ": 'x' of shape ", binding::shape_of(x), " has no statistics");
  Tensor mean = new_vector(call, p.x.c), var = new_vector(call, p.x.c);
  p.mean = mean.data_ptr();
  p.var = var.data_ptr();
  call.run(p, cuda::batch_stats_cuda_workspace, cuda::batch_stats_cuda);
  return {mean, var};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lightops, LIGHTOPS_CUDA_KEY, m) { m.impl("batch_stats", TORCH_BOX(&batch_stats)); }

}  // namespace cuda_binding
}  // namespace lightops
