// The training ops of the harness: fields in the order of the cases in tests/emulator/training_cases.
#include <string>

#include "reader.h"
#include "training/norm.h"

namespace emulator {
namespace {

struct NormGradientParams : NormGradient {
  void* workspace = nullptr;
};
int64_t norm_gradient_workspace(const NormGradientParams& p, const Device& device) { return norm_backward_workspace(p, device); }
Result norm_gradient(const NormGradientParams& p, const Device& device, StreamHandle stream) {
  return run_norm_backward(p, p.workspace, device, stream);
}

}  // namespace

Result run_training(const std::string& op, DType type, Reader r, const Device& device) {
  if (op == "batch_stats") {
    BatchStatsParams p;
    p.type = type;
    p.x = r.tensor(), p.mean = r.pointer(), p.var = r.pointer();
    return run(p, device, batch_stats_cuda_workspace, batch_stats_cuda);
  }
  if (op == "bn_act") {
    BnActParams p;
    p.type = type;
    p.x = r.tensor(), p.residual = r.tensor(), p.out = r.tensor();
    p.norm = r.norm(), p.act = r.act();
    return run(p, device, bn_act_cuda_workspace, bn_act_cuda);
  }
  if (op == "bn_act_backward") {
    BnActBackwardParams p;
    p.type = type;
    p.dy = r.tensor(), p.x = r.tensor(), p.dx = r.tensor();
    p.norm = r.norm(), p.act = r.act(), p.dgamma = r.pointer(), p.dbeta = r.pointer();
    return run(p, device, bn_act_backward_cuda_workspace, bn_act_backward_cuda);
  }
  if (op == "bn_act_mean") {
    BnActMeanParams p;
    p.type = type;
    p.x = r.tensor(), p.norm = r.norm(), p.act = r.act(), p.out = r.pointer();
    return run(p, device, bn_act_mean_cuda_workspace, bn_act_mean_cuda);
  }
  if (op == "bn_act_mean_backward") {
    BnActMeanBackwardParams p;
    p.type = type;
    p.dy = r.pointer(), p.x = r.tensor(), p.dx = r.tensor();
    p.norm = r.norm(), p.act = r.act(), p.dgamma = r.pointer(), p.dbeta = r.pointer();
    return run(p, device, bn_act_mean_backward_cuda_workspace, bn_act_mean_backward_cuda);
  }
  if (op == "bn_act_max_pool2d") {
    BnActMaxPool2dParams p;
    p.type = type;
    p.x = r.tensor(), p.out = r.tensor(), p.norm = r.norm(), p.act = r.act(), p.window = r.window();
    return run(p, device, bn_act_max_pool2d_cuda_workspace, bn_act_max_pool2d_cuda);
  }
  if (op == "bn_act_max_pool2d_backward") {
    BnActMaxPool2dBackwardParams p;
    p.type = type;
    p.dy = r.tensor(), p.x = r.tensor(), p.dx = r.tensor();
    p.norm = r.norm(), p.act = r.act(), p.window = r.window(), p.dgamma = r.pointer(), p.dbeta = r.pointer();
    return run(p, device, bn_act_max_pool2d_backward_cuda_workspace, bn_act_max_pool2d_backward_cuda);
  }
  if (op == "norm_gradient") {
    NormGradientParams p;
    p.type = type;
    p.dx_type = static_cast<DType>(r.number());
    p.du = r.tensor(), p.x = r.tensor(), p.dx = r.tensor();
    p.norm = r.norm(), p.act = r.act();
    p.dgamma = static_cast<float*>(r.pointer()), p.dbeta = static_cast<float*>(r.pointer());
    p.accumulate = r.number() != 0;
    p.slope = static_cast<float*>(r.pointer()), p.constant = static_cast<float*>(r.pointer());
    return run(p, device, norm_gradient_workspace, norm_gradient);
  }
  if (op == "finish_gradient") {
    const auto gradient_type = static_cast<DType>(r.number()), out_type = static_cast<DType>(r.number());
    const Nhwc gradient = r.tensor(), x = r.tensor(), out = r.tensor();
    const auto *mean = static_cast<float*>(r.pointer()), *slope = static_cast<float*>(r.pointer());
    return run_finish_gradient(gradient, gradient_type, x, type, out, out_type, mean, slope, static_cast<float*>(r.pointer()), nullptr);
  }
  return {"no such op in the harness", 0};
}

}  // namespace emulator
