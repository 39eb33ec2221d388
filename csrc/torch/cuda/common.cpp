#include "common.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#ifndef LIGHTOPS_EMULATE
// Weak: a torch without CUDA does not have it, and the library must load there all the same.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);
#endif

namespace lightops {
namespace cuda_binding {
namespace {

int64_t chunk_elements(DType type) { return type == DType::f32 ? 4 : 8; }

#ifdef LIGHTOPS_EMULATE
bool on_gpu(const Tensor& t) { return t.is_cpu(); }
cuda::StreamHandle current_stream(const char*, int32_t) { return nullptr; }
#else
bool on_gpu(const Tensor& t) { return t.is_cuda(); }
cuda::StreamHandle current_stream(const char* op, int32_t device) {
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "lightops::", op,
                  ": this torch is built without CUDA");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return stream;
}
#endif

}  // namespace

Call::Call(const char* name, const Tensor& x)
    : op(name),
      type(binding::dtype_of(name, "x", x)),
      x_(x),
      index_(x.get_device_index())
#ifndef LIGHTOPS_EMULATE
      ,
      guard_(index_)
#endif
{
  STD_TORCH_CHECK(type != DType::f64, "lightops::", op,
                  ": the CUDA kernels take float16, bfloat16 and float32, got float64");
  check_device("x", x);
}

void Call::check_device(const char* name, const Tensor& t) const {
  STD_TORCH_CHECK(on_gpu(t) && t.get_device_index() == index_, "lightops::", op, ": '", name,
                  "' must be on cuda:", index_, " like 'x', got ",
                  on_gpu(t) ? "cuda:" + std::to_string(t.get_device_index()) : "another kind of device");
}

Nhwc Call::image(const char* name, const Tensor& t) const {
  check_device(name, t);
  return binding::layout_of(op, name, t);
}

Nhwc Call::image(const char* name, const Tensor& t, std::initializer_list<int64_t> size) const {
  check_like_x(name, t, size);
  return image(name, t);
}
void Call::check_like_x(const char* name, const Tensor& t, std::initializer_list<int64_t> size) const {
  check_device(name, t);
  binding::check_size(op, name, t, size);
  STD_TORCH_CHECK(t.scalar_type() == x_.scalar_type(), "lightops::", op, ": '", name, "' and 'x' differ in type");
}
const void* Call::dense(const char* name, const Tensor& t, std::initializer_list<int64_t> size) const {
  check_like_x(name, t, size);
  STD_TORCH_CHECK(t.is_contiguous(), "lightops::", op, ": '", name, "' must be contiguous");
  return t.data_ptr();
}

const void* Call::weight(const char* name, const Tensor& t, int64_t taps, int64_t out, int64_t in) const {
  check_device(name, t);
  const int64_t elements = taps * out * round_up(in, chunk_elements(type));
  STD_TORCH_CHECK(t.is_contiguous() && t.scalar_type() == x_.scalar_type() && t.numel() == elements, "lightops::", op,
                  ": '", name, "' must be packed for x's type (lightops.ops pack functions), contiguous, with ",
                  elements, " elements, got ", t.numel(), " elements of scalar type ", int(t.scalar_type()));
  return t.data_ptr();
}
const void* Call::weight(const char* name, const OptionalTensor& t, int64_t taps, int64_t out, int64_t in) const {
  return t.has_value() ? weight(name, *t, taps, out, in) : nullptr;
}

const void* Call::vector(const char* name, const Tensor& t, int64_t elements) const {
  check_device(name, t);
  STD_TORCH_CHECK(t.is_contiguous() && t.scalar_type() == ScalarType::Float && t.numel() == elements, "lightops::", op,
                  ": '", name, "' must be a contiguous tensor of float32 with ", elements, " elements, got ", t.numel(),
                  " elements of scalar type ", int(t.scalar_type()));
  return t.data_ptr();
}
const void* Call::vector(const char* name, const OptionalTensor& t, int64_t elements) const {
  return t.has_value() ? vector(name, *t, elements) : nullptr;
}

Tensor Call::new_tensor(const std::vector<int64_t>& size, ScalarType type) const {
  return torch::stable::empty({size.data(), size.size()}, type, std::nullopt, x_.device());
}

Tensor Call::new_image(int64_t n, int64_t c, int64_t h, int64_t w, ScalarType type) const {
  const int64_t size[4] = {n, c, h, w};
  return torch::stable::empty({size, 4}, type, std::nullopt, x_.device(), std::nullopt,
                              torch::headeronly::MemoryFormat::ChannelsLast);
}

Tensor Call::new_bytes(int64_t bytes) const {
  return torch::stable::empty({&bytes, 1}, ScalarType::Byte, std::nullopt, x_.device());
}

Call::Ready Call::prepare() const {
  Ready ready{};
  report({nullptr, cuda::use_device(index_, &ready.device)});
  ready.stream = current_stream(op, index_);
  return ready;
}

void Call::report(const cuda::Result& result) const {
  STD_TORCH_CHECK(result.refusal == nullptr, "lightops::", op, ": no CUDA kernel serves x ", binding::shape_of(x_),
                  ": ", result.refusal);
  STD_TORCH_CHECK(result.cuda_error == 0, "lightops::", op, ": launch on cuda:", index_, " for x ",
                  binding::shape_of(x_), " failed: ", cuda::error_text(result.cuda_error),
                  " (`lightops info` lists the architectures this build has code for)");
}

}  // namespace cuda_binding
}  // namespace lightops
