// The emulator as a C library for the tests: registers memory, runs an op of csrc/cuda, reports faults and traffic.
#include <string>
#include <vector>

#include "counters.h"
#include "memory.h"
#include "reader.h"
#include "scheduler.h"

namespace {

using namespace lightops;
using namespace lightops::cuda;
using emulator::Reader;
using emulator::run;

Result dispatch(const std::string& op, Reader r, const Device& device) {
  const auto type = static_cast<DType>(r.number());
  if (op == "conv1x1_bn_act") {
    Conv1x1BnActParams p;
    p.type = type;
    p.x = r.tensor(), p.out = r.tensor(), p.residual = r.tensor();
    p.weight = r.pointer(), p.bias = r.pointer(), p.act = r.act();
    return run(p, device, conv1x1_bn_act_cuda_workspace, conv1x1_bn_act_cuda);
  }
  if (op == "bn_relu_conv2d") {
    BnReluConv2dParams p;
    p.type = type;
    p.x = r.tensor(), p.out = r.tensor();
    p.scale = r.pointer(), p.shift = r.pointer(), p.pre_act = r.act();
    p.weight = r.pointer(), p.bias = r.pointer(), p.act = r.act();
    p.window = r.window();
    return run(p, device, bn_relu_conv2d_cuda_workspace, bn_relu_conv2d_cuda);
  }
  if (op == "transition") {
    TransitionParams p;
    p.type = type;
    p.x = r.tensor(), p.out = r.tensor();
    p.scale = r.pointer(), p.shift = r.pointer(), p.weight = r.pointer(), p.bias = r.pointer();
    return run(p, device, transition_cuda_workspace, transition_cuda);
  }
  if (op == "stem") {
    StemParams p;
    p.type = type;
    p.x = r.tensor(), p.out = r.tensor(), p.planar = r.number() != 0;
    p.weight = r.pointer(), p.bias = r.pointer(), p.act = r.act();
    p.window = r.window(), p.pooled = r.number() != 0, p.pool = r.window();
    return run(p, device, stem_cuda_workspace, stem_cuda);
  }
  if (op == "depthwise_pointwise") {
    DepthwisePointwiseParams p;
    p.type = type;
    p.x = r.tensor(), p.out = r.tensor(), p.residual = r.tensor();
    p.dw = r.pointer(), p.dw_bias = r.pointer(), p.dw_act = r.act(), p.window = r.window();
    p.pw = r.pointer(), p.pw_bias = r.pointer(), p.pw_act = r.act();
    return run(p, device, depthwise_pointwise_cuda_workspace, depthwise_pointwise_cuda);
  }
  if (op == "fire") {
    FireParams p;
    p.type = type;
    p.x = r.tensor(), p.out = r.tensor(), p.bypass = r.tensor();
    p.squeeze = r.pointer(), p.squeeze_bias = r.pointer(), p.squeeze_channels = r.number();
    p.expand1 = r.pointer(), p.expand1_bias = r.pointer(), p.expand1_channels = r.number();
    p.expand3 = r.pointer(), p.expand3_bias = r.pointer(), p.expand3_channels = r.number();
    return run(p, device, fire_cuda_workspace, fire_cuda);
  }
  if (op == "dense_block") {
    DenseBlockParams p;
    p.type = type;
    p.buffer = r.tensor();
    p.in_channels = r.number(), p.growth = r.number(), p.bottleneck = r.number(), p.layers = r.number();
    std::vector<DenseLayerWeights> layers(p.layers);
    for (DenseLayerWeights& layer : layers) layer = {r.pointer(), r.pointer(), r.pointer(), r.pointer(), r.pointer()};
    p.weights = layers.data();
    return run(p, device, dense_block_cuda_workspace, dense_block_cuda);
  }
  if (op == "max_pool2d") {
    MaxPool2dParams p;
    p.type = type;
    p.x = r.tensor(), p.out = r.tensor();
    p.window = r.window();
    return run(p, device, max_pool2d_cuda_workspace, max_pool2d_cuda);
  }
  if (op == "inverted_residual") {
    InvertedResidualParams p;
    p.type = type;
    p.x = r.tensor(), p.out = r.tensor();
    p.ex = r.pointer(), p.ex_bias = r.pointer(), p.hidden = r.number(), p.ex_act = r.act();
    p.dw = r.pointer(), p.dw_bias = r.pointer(), p.dw_act = r.act(), p.window = r.window();
    p.pw = r.pointer(), p.pw_bias = r.pointer(), p.residual = r.number() != 0;
    return run(p, device, inverted_residual_cuda_workspace, inverted_residual_cuda);
  }
  if (op == "head") {
    HeadParams p;
    p.type = type;
    p.x = r.tensor();
    p.scale = r.pointer(), p.shift = r.pointer(), p.act = r.act();
    p.weight = r.pointer(), p.bias = r.pointer(), p.out_features = r.number(), p.out = r.pointer();
    return run(p, device, head_cuda_workspace, head_cuda);
  }
  return emulator::run_training(op, type, r, device);
}

std::string text;

}  // namespace

extern "C" {

void emulator_reset(int counting) {
  emulator::clear_faults();
  emulator::clear_regions();
  emulator::clear_counters();
  emulator::set_counting(counting != 0);
}

void emulator_region(const void* base, int64_t bytes, int writable, const char* label) {
  emulator::add_region(base, bytes, writable != 0, label);
}

// Null on success, else why the op was refused.
const char* emulator_run(const char* op, const int64_t* fields, int multiprocessors, int shared_limit, int tf32) {
  Device device;
  device.multiprocessors = multiprocessors;
  device.shared_limit = shared_limit;
  device.tf32 = tf32 != 0;
  const Result result = dispatch(op, Reader{fields}, device);
  return result.refusal;
}

const char* emulator_faults() {
  text = emulator::faults_json();
  return text.c_str();
}

void emulator_dry(int dry) { emulator::set_dry(dry != 0); }

const char* emulator_kernels() {
  text = emulator::kernels_run();
  return text.c_str();
}

const char* emulator_counters() {
  text = emulator::counters_json();
  return text.c_str();
}

}  // extern "C"
