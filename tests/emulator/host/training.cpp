// The training ops of the harness: fields in the order of the cases in tests/emulator/training_cases.
#include <string>
#include <vector>

#include "reader.h"
#include "training/input_gradient.h"
#include "training/pack.h"
#include "training/wgrad.h"

namespace emulator {
namespace {

// All but du and the types.
void read_gradient(Reader& r, NormGradient& g) {
  g.x = r.tensor(), g.dx = r.tensor(), g.norm = r.norm(), g.act = r.act();
  g.dgamma = static_cast<float*>(r.pointer()), g.dbeta = static_cast<float*>(r.pointer());
  g.accumulate = r.number() != 0;
  g.before = g.dx;
  g.slope = static_cast<float*>(r.pointer()), g.constant = static_cast<float*>(r.pointer());
}

struct NormGradientParams : NormGradient { void* workspace = nullptr; };
int64_t norm_gradient_workspace(const NormGradientParams& p, const Device& device) {
  return norm_backward_workspace(p, device);
}
Result norm_gradient(const NormGradientParams& p, const Device& device, StreamHandle stream) {
  return run_norm_backward(p, p.workspace, device, stream);
}

struct MaskedGradientParams : InputGradient { void* workspace = nullptr; };
int64_t masked_gradient_workspace(const MaskedGradientParams& p, const Device& device) {
  return input_gradient_workspace(p, device);
}
Result masked_gradient(const MaskedGradientParams& p, const Device& device, StreamHandle stream) {
  return run_input_gradient(p, p.workspace, device, stream);
}

// The block without its x, which only the forward pass reads; `layers` holds what p.layer then points to.
void read_sizes(Reader& r, DenseBlockTrainParams& p) {
  p.x = r.tensor(), p.buffer = r.tensor();
  p.in_channels = r.number(), p.growth = r.number(), p.bottleneck = r.number(), p.layers = r.number(),
  p.x_known = r.number() != 0;
  p.middle = r.pointer(), p.mean = r.pointer(), p.variance = r.pointer(), p.middle_mean = r.pointer(),
  p.middle_variance = r.pointer();
}
std::vector<DenseTrainLayer> read_layers(Reader& r, int64_t count) {
  std::vector<DenseTrainLayer> layers(count);
  for (DenseTrainLayer& l : layers)
    l.norm1 = r.norm(), l.norm2 = r.norm(), l.weight1 = r.weight(), l.weight2 = r.weight(), l.mask = r.tensor();
  return layers;
}

struct WgradParams : WgradProblem { void* workspace = nullptr; };
int64_t wgrad_params_workspace(const WgradParams& p, const Device& device) { return wgrad_workspace(p, device); }
Result wgrad_params(const WgradParams& p, const Device& device, StreamHandle stream) {
  return run_wgrad(p, p.workspace, device, stream);
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
  if (op == "bn_act_conv2d") {
    BnActConv2dParams p;
    p.type = type;
    p.x = r.tensor(), p.y = r.tensor(), p.norm = r.norm(), p.act = r.act();
    p.weight = r.pointer(), p.bias = r.pointer(), p.window = r.window();
    p.groups = r.number(), p.pool = r.number() != 0, p.mean = r.pointer(), p.var = r.pointer();
    return run(p, device, bn_act_conv2d_cuda_workspace, bn_act_conv2d_cuda);
  }
  if (op == "bn_act_conv2d_backward") {
    BnActConv2dBackwardParams p;
    p.type = type;
    p.dy = r.tensor(), p.x = r.tensor(), p.norm = r.norm(), p.act = r.act();
    p.weight = r.pointer(), p.window = r.window(), p.groups = r.number(), p.pool = r.number() != 0;
    p.dx = r.tensor(), p.dgamma = r.pointer(), p.dbeta = r.pointer(), p.dweight = r.pointer(), p.dbias = r.pointer();
    return run(p, device, bn_act_conv2d_backward_cuda_workspace, bn_act_conv2d_backward_cuda);
  }
  if (op == "pack_weight") {
    PackProblem p;
    p.type = type;
    p.weight = r.weight(), p.out = r.number(), p.in = r.number(), p.kernel[0] = r.number(), p.kernel[1] = r.number();
    p.packing = static_cast<Packing>(r.number());
    return run_packs({{p, r.pointer()}}, nullptr);
  }
  if (op == "wgrad") {
    WgradParams p;
    p.type = type;
    p.x = r.tensor(), p.dy = r.tensor();
    p.scale = static_cast<float*>(r.pointer()), p.shift = static_cast<float*>(r.pointer());
    p.pre_act = r.act(), p.average_pool = r.number() != 0, p.window = r.window();
    p.dweight = r.weight(), p.dbias = r.pointer();
    return run(p, device, wgrad_params_workspace, wgrad_params);
  }
  if (op == "masked_gradient") {
    MaskedGradientParams p;
    p.type = p.norm.type = p.norm.dx_type = type;
    p.dy = r.tensor(), p.dx = p.norm.du = r.tensor(), p.weight = r.weight(), p.window = r.window();
    p.through_norm = true;
    read_gradient(r, p.norm);
    return run(p, device, masked_gradient_workspace, masked_gradient);
  }
  if (op == "norm_gradient") {
    NormGradientParams p;
    p.type = type;
    p.dx_type = static_cast<DType>(r.number());
    p.du = r.tensor();
    read_gradient(r, p);
    return run(p, device, norm_gradient_workspace, norm_gradient);
  }
  if (op == "finish_gradient") {
    const auto gradient_type = static_cast<DType>(r.number()), out_type = static_cast<DType>(r.number());
    const Nhwc gradient = r.tensor(), x = r.tensor(), out = r.tensor();
    const auto *mean = static_cast<float*>(r.pointer()), *slope = static_cast<float*>(r.pointer());
    return run_finish_gradient(gradient, gradient_type, x, type, out, out_type, mean, slope,
                               static_cast<float*>(r.pointer()), nullptr);
  }
  if (op == "dense_block_train") {
    DenseBlockTrainParams p;
    p.type = type;
    read_sizes(r, p);
    const std::vector<DenseTrainLayer> layers = read_layers(r, p.layers);
    p.layer = layers.data();
    return run(p, device, dense_block_train_cuda_workspace, dense_block_train_cuda);
  }
  if (op == "dense_block_train_backward") {
    DenseBlockTrainBackwardParams p;
    p.type = p.block.type = type;
    read_sizes(r, p.block);
    const std::vector<DenseTrainLayer> layers = read_layers(r, p.block.layers);
    p.block.layer = layers.data();
    p.dbuffer = r.tensor(), p.dx = r.tensor(), p.gradient = r.pointer(), p.dmiddle = r.pointer();
    std::vector<DenseTrainGradient> gradients(p.block.layers);
    for (DenseTrainGradient& g : gradients)
      for (void** place : {&g.gamma1, &g.beta1, &g.weight1, &g.gamma2, &g.beta2, &g.weight2}) *place = r.pointer();
    p.gradients = gradients.data();
    return run(p, device, dense_block_train_backward_cuda_workspace, dense_block_train_backward_cuda);
  }
  if (op == "fire_train") {
    FireTrainParams p;
    p.type = type;
    p.x = r.tensor(), p.out = r.tensor(), p.squeeze = r.number(), p.expand1 = r.number();
    p.ws = r.weight(), p.w1 = r.weight(), p.w3 = r.weight();
    p.bs = r.pointer(), p.b1 = r.pointer(), p.b3 = r.pointer();
    return run(p, device, fire_train_cuda_workspace, fire_train_cuda);
  }
  if (op == "fire_train_backward") {
    FireTrainBackwardParams p;
    p.type = type;
    p.dout = r.tensor(), p.x = r.tensor(), p.out = r.tensor(), p.squeeze_channels = r.number(), p.expand1 = r.number();
    p.ws = r.weight(), p.w1 = r.weight(), p.w3 = r.weight(), p.bs = r.pointer();
    p.squeeze = r.pointer(), p.dsqueeze = r.pointer(), p.dx = r.tensor();
    for (void** place : {&p.dws, &p.dbs, &p.dw1, &p.db1, &p.dw3, &p.db3}) *place = r.pointer();
    return run(p, device, fire_train_backward_cuda_workspace, fire_train_backward_cuda);
  }
  if (op == "stem_train") {
    StemTrainParams p;
    p.type = type;
    p.x = r.tensor(), p.out = r.tensor(), p.places = static_cast<uint8_t*>(r.pointer());
    p.weight = r.pointer(), p.bias = r.pointer(), p.act = r.act(), p.window = r.window(), p.pool = r.window();
    return run(p, device, stem_train_cuda_workspace, stem_train_cuda);
  }
  if (op == "stem_train_backward") {
    StemTrainBackwardParams p;
    p.type = type;
    p.x = r.tensor(), p.dout = r.tensor(), p.out = r.tensor(), p.places = static_cast<uint8_t*>(r.pointer());
    p.act = r.act(), p.window = r.window(), p.pool = r.window();
    p.weight = r.pointer(), p.dx = r.tensor(), p.dweight = r.pointer(), p.dbias = r.pointer();
    return run(p, device, stem_train_backward_cuda_workspace, stem_train_backward_cuda);
  }
  return {"no such op in the harness", 0};
}

}  // namespace emulator
