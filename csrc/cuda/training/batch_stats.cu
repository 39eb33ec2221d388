// One pass over x and a merge: norm.cu.
#include "lightops/training/cuda.h"
#include "training/statistics.h"

namespace lightops::cuda {

int64_t batch_stats_cuda_workspace(const BatchStatsParams& p, const Device& device) {
  return stats_workspace(p.x, device);
}

Result batch_stats_cuda(const BatchStatsParams& p, const Device& device, StreamHandle stream) {
  return run_stats(p.x, p.type, static_cast<float*>(p.mean), static_cast<float*>(p.var), p.workspace, device, stream);
}

}  // namespace lightops::cuda
