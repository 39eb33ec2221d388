#include "lightops/training/batch_stats.h"

#include "common.h"

namespace lightops {
namespace binding {

std::tuple<Tensor, Tensor> batch_stats(Tensor x) {
  const char* op = "batch_stats";
  BatchStatsParams p;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  STD_TORCH_CHECK(x.numel() > 0, "lightops::", op, ": 'x' of shape ", shape_of(x), " has no statistics");
  Tensor mean = new_vector(p.x.c, compute_type(p.type)), var = new_vector(p.x.c, compute_type(p.type));
  p.mean = mean.data_ptr();
  p.var = var.data_ptr();
  p.parallel = parallel_for_work(x.numel() * kWorkPerElement);
  p.workspace = workspace(batch_stats_workspace(p));
  batch_stats_cpu(p);
  return {mean, var};
}

STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) { m.impl("batch_stats", TORCH_BOX(&batch_stats)); }

}  // namespace binding
}  // namespace lightops
