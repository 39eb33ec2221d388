// A dense block on one buffer, layer after layer on one stream: each reads the channel prefix and writes its slice in place.
// A bottleneck layer is two kernels with the 1x1's output in the workspace. One kernel that kept it on chip moved 40% fewer bytes and
// was slower all the same (DenseNet-121, batch 256, H100: 21.4 ms against 12.2, benchmarks/records): a third more pixels for the border, and memory, tensor
// cores and epilogues waiting for each other in one block; apart, the first waits for memory and the second for the tensor cores.
#include <algorithm>

#include "conv_launch.h"

namespace lightops::cuda {
namespace {

constexpr Window kWindow3x3{{3, 3}, {1, 1}, {1, 1}, {1, 1}};

struct Layer {
  Nhwc prefix, slice, middle;
  const DenseLayerWeights* weights;
};

Layer layer_of(const DenseBlockParams& p, int64_t index, void* middle) {
  Layer l;
  const int bytes = element_bytes(p.type);
  const int64_t first = p.in_channels + index * p.growth;
  l.prefix = l.slice = p.buffer;
  l.prefix.c = first;
  l.slice.c = p.growth;
  l.slice.data = static_cast<unsigned char*>(p.buffer.data) + first * bytes;
  // Pixels of the 1x1's output are whole 16-byte chunks apart, so that the 3x3 reads it with wide accesses.
  l.middle = {middle, p.buffer.n, p.buffer.h, p.buffer.w, p.bottleneck, packed_row(p.bottleneck, bytes), 0};
  l.middle.image = l.middle.h * l.middle.w * l.middle.pixel;
  l.weights = &p.weights[index];
  return l;
}

ConvProblem normalised(const DenseBlockParams& p, const Layer& l) {
  ConvProblem c;
  c.x = l.prefix;
  c.element_bytes = element_bytes(p.type);
  c.scale = l.weights->scale;
  c.shift = l.weights->shift;
  c.pre_act = Act::relu;
  return c;
}

// Without a bottleneck: one 3x3 convolution.
ConvProblem only(const DenseBlockParams& p, const Layer& l) {
  ConvProblem c = normalised(p, l);
  c.out = l.slice;
  c.window = kWindow3x3;
  c.weight = l.weights->weight2;
  return c;
}

ConvProblem first(const DenseBlockParams& p, const Layer& l) {
  ConvProblem c = normalised(p, l);
  c.out = l.middle;
  c.weight = l.weights->weight1;
  c.bias = l.weights->bias1;
  c.act = Act::relu;
  return c;
}

ConvProblem second(const DenseBlockParams& p, const Layer& l) {
  ConvProblem c;
  c.x = l.middle;
  c.element_bytes = element_bytes(p.type);
  c.out = l.slice;
  c.window = kWindow3x3;
  c.weight = l.weights->weight2;
  return c;
}

int64_t middle_bytes(const DenseBlockParams& p) {
  const Layer l = layer_of(p, 0, nullptr);
  return round_up(l.middle.n * l.middle.image * element_bytes(p.type), 256);
}

// Of the splits of all layers, which use it one after the other.
int64_t partial_bytes(const DenseBlockParams& p, const Device& device) {
  int64_t partial = 0;
  for (int64_t i = 0; i < p.layers; ++i) {
    const Layer l = layer_of(p, i, nullptr);
    if (p.bottleneck == 0) {
      partial = std::max(partial, conv_workspace(only(p, l), device));
      continue;
    }
    partial = std::max({partial, conv_workspace(first(p, l), device), conv_workspace(second(p, l), device)});
  }
  return partial;
}

}  // namespace

int64_t dense_block_cuda_workspace(const DenseBlockParams& p, const Device& device) {
  if (element_bytes(p.type) == 0) return 0;
  return partial_bytes(p, device) + (p.bottleneck ? middle_bytes(p) : 0);
}

Result dense_block_cuda(const DenseBlockParams& p, const Device& device, StreamHandle stream) {
  if (element_bytes(p.type) == 0) return {"the CUDA kernels take float16, bfloat16 and float32", 0};
  unsigned char* const partial = static_cast<unsigned char*>(p.workspace) + (p.bottleneck ? middle_bytes(p) : 0);
  if (partial_bytes(p, device)) {
    const Result result = clear_arrivals(partial, device, stream);
    if (!result.ok()) return result;
  }
  for (int64_t i = 0; i < p.layers; ++i) {
    const Layer l = layer_of(p, i, p.workspace);
    Result result;
    if (p.bottleneck == 0) {
      result = run_conv(only(p, l), p.type, device, partial, stream, true);
    } else {
      result = run_conv(first(p, l), p.type, device, partial, stream, true);
      if (result.ok()) result = run_conv(second(p, l), p.type, device, partial, stream, true);
    }
    if (!result.ok()) return result;
  }
  return {};
}

}  // namespace lightops::cuda
