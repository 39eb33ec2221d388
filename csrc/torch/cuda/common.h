// What the CUDA bindings need beside the CPU's helpers: device checks, packed weights, the guarded launch.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include "../common.h"
#include "lightops/cuda.h"

// Under LIGHTOPS_EMULATE (tests/emulator) the same bindings serve tensors of the CPU, and the emulator runs their kernels.
#ifdef LIGHTOPS_EMULATE
#define LIGHTOPS_CUDA_KEY CPU
#else
#define LIGHTOPS_CUDA_KEY CUDA
#endif

namespace lightops {
namespace cuda_binding {

using binding::Ints;
using binding::OptionalTensor;
using binding::ScalarType;
using binding::Tensor;

// The tensors of one call: all on the device of the first.
class Call {
 public:
  Call(const char* op, const Tensor& x);

  Nhwc image(const char* name, const Tensor& t) const;
  // A second activation tensor, of the first one's type and of the given size.
  Nhwc image(const char* name, const Tensor& t, std::initializer_list<int64_t> size) const;
  // Packed weights: [taps][out][in, in whole 16-byte chunks], of x's type.
  const void* weight(const char* name, const Tensor& t, int64_t taps, int64_t out, int64_t in) const;
  const void* weight(const char* name, const OptionalTensor& t, int64_t taps, int64_t out, int64_t in) const;
  // Biases, scales, shifts: float32.
  const void* vector(const char* name, const Tensor& t, int64_t elements) const;
  const void* vector(const char* name, const OptionalTensor& t, int64_t elements) const;

  void check_device(const char* name, const Tensor& t) const;
  // Any tensor of x's type and of the given size, on its device.
  void check_like_x(const char* name, const Tensor& t, std::initializer_list<int64_t> size) const;
  // A contiguous tensor of x's type and of the given size.
  const void* dense(const char* name, const Tensor& t, std::initializer_list<int64_t> size) const;

  ScalarType scalar() const { return x_.scalar_type(); }
  Tensor new_tensor(const std::vector<int64_t>& size, ScalarType type) const;
  Tensor new_image(int64_t n, int64_t c, int64_t h, int64_t w) const { return new_image(n, c, h, w, scalar()); }
  Tensor new_image(int64_t n, int64_t c, int64_t h, int64_t w, ScalarType type) const;
  Tensor new_bytes(int64_t bytes) const;

  // Everything is checked and allocated by now: workspace on the current stream's pool, then the launch on that stream.
  template <class Params>
  void run(Params& p, int64_t (*workspace)(const Params&, const cuda::Device&),
           cuda::Result (*launch)(const Params&, const cuda::Device&, cuda::StreamHandle)) const {
    const Ready ready = prepare();
    const int64_t bytes = workspace(p, ready.device);
    const std::optional<Tensor> scratch = bytes > 0 ? std::optional<Tensor>(new_bytes(bytes)) : std::nullopt;
    p.workspace = scratch ? scratch->data_ptr() : nullptr;
    report(launch(p, ready.device, ready.stream));
  }

  const char* op;
  DType type;

 private:
  struct Ready {
    cuda::Device device;
    cuda::StreamHandle stream;
  };
  Ready prepare() const;
  void report(const cuda::Result& result) const;

  const Tensor& x_;
  int32_t index_;
#ifndef LIGHTOPS_EMULATE
  torch::stable::accelerator::DeviceGuard guard_;  // restores the caller's device
#endif
};

}  // namespace cuda_binding
}  // namespace lightops
