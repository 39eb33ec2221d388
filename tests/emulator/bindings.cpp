// Beside the CUDA bindings compiled for the emulator: the schemas (elsewhere the CPU library defines them), and the device.
#include <torch/csrc/stable/library.h>

#include "lightops/cuda.h"
#include "memory.h"

namespace lightops::cuda {

int use_device(int, Device* device) {
  // Tensors come from torch's allocator: the whole address space is one region. Bounds are the other tests' business.
  emulator::clear_regions();
  emulator::add_everything();
  *device = {8, 227 * 1024, false};
  return 0;
}

const char* error_text(int) { return "none"; }

}  // namespace lightops::cuda

extern "C" __attribute__((visibility("default"))) const char* bindings_faults() {
  static std::string text;
  text = emulator::faults_json();
  emulator::clear_faults();
  return text.c_str();
}

STABLE_TORCH_LIBRARY(lightops, m) {
  // The first four have no CUDA kernel; the Python layer binds their names at import.
  m.def("max_pool2d(Tensor x, int[] kernel, int[] stride, int[] padding, bool ceil_mode) -> Tensor");
  m.def("pack_conv2d(Tensor weight, Tensor? scale, int algo) -> Tensor");
  m.def("pack_depthwise(Tensor weight, Tensor? scale) -> Tensor");
  m.def(
      "inverted_residual(Tensor x, Tensor ex, Tensor? ex_bias, int hidden, int ex_act, Tensor dw, Tensor? dw_bias, "
      "int[] kernel, int[] stride, int[] padding, int dw_act, Tensor pw, Tensor? pw_bias, int out_channels, bool "
      "residual) "
      "-> Tensor");
  m.def("conv1x1_bn_act(Tensor x, Tensor w, Tensor? bias, int out_channels, int act, Tensor? residual) -> Tensor");
  m.def(
      "bn_relu_conv2d(Tensor x, Tensor? scale, Tensor? shift, int pre_act, Tensor w, Tensor? bias, int out_channels, "
      "int[] kernel, int[] stride, int[] padding, int[] dilation, int act, int algo) -> Tensor");
  m.def(
      "depthwise_pointwise(Tensor x, Tensor dw, Tensor? dw_bias, int[] kernel, int[] stride, int[] padding, int[] "
      "dilation, "
      "int dw_act, Tensor pw, Tensor? pw_bias, int out_channels, int pw_act, Tensor? residual) -> Tensor");
  m.def(
      "fire(Tensor x, Tensor sq, Tensor? sq_bias, int squeeze, Tensor e1, Tensor? e1_bias, int expand1, Tensor e3, "
      "Tensor? e3_bias, int expand3, int algo, Tensor? bypass) -> Tensor");
  m.def("dense_block(Tensor x, Tensor[] params, int growth, int bottleneck, int algo) -> Tensor");
  m.def(
      "dense_block_(Tensor(a!) buffer, Tensor[] params, int in_channels, int growth, int bottleneck, int algo) -> ()");
  m.def("transition(Tensor x, Tensor scale, Tensor shift, Tensor w, Tensor? bias, int out_channels) -> Tensor");
  m.def("transition_out(Tensor x, Tensor scale, Tensor shift, Tensor w, Tensor? bias, Tensor(a!) out) -> ()");
  m.def(
      "stem(Tensor x, Tensor w, Tensor? bias, int out_channels, int[] kernel, int[] stride, int[] padding, int act, "
      "int[] pool) "
      "-> Tensor");
  m.def(
      "stem_out(Tensor x, Tensor w, Tensor? bias, int[] kernel, int[] stride, int[] padding, int act, int[] pool, "
      "Tensor(a!) out) -> ()");
  m.def(
      "head(Tensor x, Tensor? scale, Tensor? shift, int act, Tensor? fc, Tensor? fc_bias, int out_features) -> Tensor");
}
