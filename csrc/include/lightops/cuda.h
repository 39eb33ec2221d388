// The CUDA entry points, one pair per op of lightops/<op>.h: how much workspace a call needs on a device, and the call.
// Kernels run on the stream given, allocate nothing and never wait for the device, so they can be captured in a graph.
//
// Weights differ from the CPU's panels: [taps][O][row] in the activations' type, `row` = input channels in whole 16-byte
// chunks, zero filled; the stem's is [O][row] with row over (ky, kx, channel). scale, shift and biases are float32.
#pragma once

#include "lightops/bn_relu_conv2d.h"
#include "lightops/conv1x1_bn_act.h"
#include "lightops/dense_block.h"
#include "lightops/depthwise_pointwise.h"
#include "lightops/fire.h"
#include "lightops/head.h"
#include "lightops/inverted_residual.h"
#include "lightops/max_pool2d.h"
#include "lightops/stem.h"
#include "lightops/transition.h"

namespace lightops::cuda {

// What the planner needs to know of a device.
struct Device {
  int multiprocessors = 108;
  int shared_limit = 99 * 1024;  // bytes a block may opt in to: 99 KiB on sm_86/89/120, 163 on sm_80, 227 on sm_90/100
  bool tf32 = false;  // fp32 convolutions may round their operands to tf32
};

struct Result {
  const char* refusal = nullptr;  // no kernel serves the problem, and why; nothing was launched
  int cuda_error = 0;  // cudaError_t of the launch
  bool ok() const { return refusal == nullptr && cuda_error == 0; }
};

using StreamHandle = void*;  // cudaStream_t

// Makes a device current for the calling thread and says what the planner needs to know of it (asked once per device).
// Nothing about the other devices changes. The error is a cudaError_t.
int use_device(int index, Device* device);
const char* error_text(int error);

#define LIGHTOPS_CUDA_OP(name, Params)                                  \
  int64_t name##_cuda_workspace(const Params& p, const Device& device); \
  Result name##_cuda(const Params& p, const Device& device, StreamHandle stream)

LIGHTOPS_CUDA_OP(bn_relu_conv2d, BnReluConv2dParams);
LIGHTOPS_CUDA_OP(conv1x1_bn_act, Conv1x1BnActParams);
LIGHTOPS_CUDA_OP(dense_block, DenseBlockParams);
LIGHTOPS_CUDA_OP(depthwise_pointwise, DepthwisePointwiseParams);
LIGHTOPS_CUDA_OP(fire, FireParams);
LIGHTOPS_CUDA_OP(head, HeadParams);
LIGHTOPS_CUDA_OP(inverted_residual, InvertedResidualParams);
LIGHTOPS_CUDA_OP(max_pool2d, MaxPool2dParams);
LIGHTOPS_CUDA_OP(stem, StemParams);
LIGHTOPS_CUDA_OP(transition, TransitionParams);

#undef LIGHTOPS_CUDA_OP

}  // namespace lightops::cuda
