// What every binding needs: argument checks, views of tensors as kernel parameters, outputs, workspace, threads.
// The bindings check everything before they allocate, and allocate before they launch.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdlib>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "lightops/common.h"
#include "lightops/dispatch.h"
#include "lightops/pack.h"

namespace lightops {
namespace binding {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Ints = std::vector<int64_t>;
using torch::headeronly::ScalarType;

inline std::string shape_of(const Tensor& t) {
  std::string s = "[";
  for (int64_t i = 0; i < t.dim(); ++i) s += (i ? ", " : "") + std::to_string(t.size(i));
  return s + "]";
}

inline Ints sizes_of(const Tensor& t) {
  Ints sizes;
  for (int64_t i = 0; i < t.dim(); ++i) sizes.push_back(t.size(i));
  return sizes;
}

inline DType dtype_of(const char* op, const char* name, const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return DType::f32;
    case ScalarType::Double: return DType::f64;
    case ScalarType::BFloat16: return DType::bf16;
    case ScalarType::Half: return DType::f16;
    default:
      STD_TORCH_CHECK(false, "lightops::", op, ": '", name, "' has scalar type ", int(t.scalar_type()),
                      "; supported are float32, float64, bfloat16 and float16");
  }
  return DType::f32;
}

inline ScalarType compute_type(DType type) { return type == DType::f64 ? ScalarType::Double : ScalarType::Float; }

// A 4-D tensor with channels innermost, rows of pixels dense; pixels may be wider than the channels.
inline Nhwc layout_of(const char* op, const char* name, const Tensor& t) {
  STD_TORCH_CHECK(t.dim() == 4, "lightops::", op, ": '", name, "' has shape ", shape_of(t),
                  "; want 4 dimensions [N, C, H, W]");
  Nhwc v;
  v.data = t.data_ptr();
  v.n = t.size(0);
  v.c = t.size(1);
  v.h = t.size(2);
  v.w = t.size(3);
  // Strides of dimensions of size 1 say nothing: take what a dense view would have.
  v.pixel = v.w > 1 ? t.stride(3) : v.h > 1 ? t.stride(2) / (v.w ? v.w : 1) : v.c;
  v.image = v.n > 1 ? t.stride(0) : v.h * v.w * v.pixel;
  const bool ok = (v.c <= 1 || t.stride(1) == 1) && v.pixel >= v.c && (v.h <= 1 || t.stride(2) == v.w * v.pixel) &&
                  (v.n <= 1 || v.image >= v.h * v.w * v.pixel);
  STD_TORCH_CHECK(ok || t.numel() == 0, "lightops::", op, ": '", name,
                  "' must have its channels innermost (channels_last, ", "or a channel slice of it), got shape ",
                  shape_of(t), " with strides ", t.stride(0), ", ", t.stride(1), ", ", t.stride(2), ", ", t.stride(3));
  return v;
}
inline Nhwc image_of(const char* op, const char* name, const Tensor& t) {
  STD_TORCH_CHECK(t.is_cpu(), "lightops::", op, ": '", name, "' is not on the CPU");
  return layout_of(op, name, t);
}

inline void check_size(const char* op, const char* name, const Tensor& t, std::initializer_list<int64_t> want) {
  bool same = t.dim() == int64_t(want.size());
  std::string text = "[";
  int64_t i = 0;
  for (int64_t w : want) {
    if (same && t.size(i) != w) same = false;
    text += (i++ ? ", " : "") + std::to_string(w);
  }
  STD_TORCH_CHECK(same, "lightops::", op, ": '", name, "' has shape ", shape_of(t), "; want ", text, "]");
}

inline const void* dense_of(const char* op, const char* name, const Tensor& t, ScalarType type, int64_t elements) {
  const char* wanted = type == ScalarType::Double ? "float64" : type == ScalarType::Float ? "float32" : "bfloat16";
  STD_TORCH_CHECK(t.is_cpu() && t.is_contiguous() && t.scalar_type() == type && t.numel() == elements, "lightops::", op,
                  ": '", name, "' must be a contiguous CPU tensor of ", wanted, " with ", elements, " elements, got ",
                  t.numel(), " elements of scalar type ", int(t.scalar_type()));
  return t.data_ptr();
}

// Scales, shifts, biases and depthwise weights: dense, on the CPU, in the compute type.
inline const void* data_of(const char* op, const char* name, const Tensor& t, DType type, int64_t elements) {
  return dense_of(op, name, t, compute_type(type), elements);
}
inline const void* data_of(const char* op, const char* name, const OptionalTensor& t, DType type, int64_t elements) {
  return t.has_value() ? data_of(op, name, *t, type, elements) : nullptr;
}

// Whether an op's convolution weights, of which `w` is one, are packed in pairs of bfloat16: then all of them must be.
inline bool pairs_of(const char* op, const char* name, const Tensor& w, DType type) {
  const bool pairs = type == DType::bf16 && w.scalar_type() == ScalarType::BFloat16;
  STD_TORCH_CHECK(!pairs || isa_reads_pairs(), "lightops::", op, ": '", name,
                  "' is packed in pairs of bfloat16, which the ", isa_name(),
                  " kernels do not read; they want it packed where they run");
  return pairs;
}
inline bool pairs_of(const char* op, const char* name, const OptionalTensor& w, DType type) {
  return w.has_value() && pairs_of(op, name, *w, type);
}

// The packed weight of a dense convolution (pack_conv2d).
inline const void* weight_of(const char* op, const char* name, const Tensor& w, DType type, bool pairs, int64_t out,
                             int64_t in, int64_t kh = 1, int64_t kw = 1, Algo algo = Algo::direct) {
  STD_TORCH_CHECK(!pairs || (in % 2 == 0 && algo == Algo::direct), "lightops::", op, ": '", name,
                  "' is packed in pairs of ", "bfloat16, for an even number of input channels and algo 0; got ", in,
                  " channels and algo ", int(algo));
  return dense_of(op, name, w, pairs ? ScalarType::BFloat16 : compute_type(type),
                  packed_numel(out, in, kh, kw, int(algo), pairs));
}

inline Act act_of(const char* op, const char* name, int64_t code) {
  STD_TORCH_CHECK(code >= 0 && code <= 4, "lightops::", op, ": '", name, "' is ", code,
                  "; want 0 (none), 1 (relu), 2 (relu6), 3 (hardswish) or 4 (silu)");
  return Act(code);
}

inline Algo algo_of(const char* op, int64_t code, const Window& w) {
  STD_TORCH_CHECK(code == 0 || code == 2 || code == 4, "lightops::", op, ": 'algo' is ", code,
                  "; want 0 (direct), 2 or 4 (Winograd tile)");
  const bool fits = w.kernel[0] == 3 && w.kernel[1] == 3 && w.stride[0] == 1 && w.stride[1] == 1 &&
                    w.dilation[0] == 1 && w.dilation[1] == 1;
  STD_TORCH_CHECK(code == 0 || fits, "lightops::", op, ": Winograd (algo ", code,
                  ") needs a 3x3 kernel, stride 1, dilation 1");
  return Algo(code);
}

inline void pair_of(const char* op, const char* name, const Ints& v, int64_t least, int64_t (&out)[2]) {
  STD_TORCH_CHECK(v.size() == 2 && v[0] >= least && v[1] >= least, "lightops::", op, ": '", name,
                  "' must hold two integers of at least ", least, " (rows, columns)");
  out[0] = v[0];
  out[1] = v[1];
}
inline Window window_of(const char* op, const Ints& kernel, const Ints& stride, const Ints& padding,
                        const Ints& dilation) {
  Window w;
  pair_of(op, "kernel", kernel, 1, w.kernel);
  pair_of(op, "stride", stride, 1, w.stride);
  pair_of(op, "padding", padding, 0, w.padding);
  pair_of(op, "dilation", dilation, 1, w.dilation);
  return w;
}

// torch's rule: in ceil mode the last window may overhang, but must start inside the input or its left padding.
inline int64_t pooled_size(int64_t in, int64_t kernel, int64_t stride, int64_t pad, bool ceil) {
  int64_t out = (in + 2 * pad - kernel + (ceil ? stride - 1 : 0)) / stride + 1;
  if (ceil && (out - 1) * stride >= in + pad) --out;
  return out;
}

// Rows and columns of a max-pool's output; `w` has no dilation.
struct PooledSize { int64_t h, w; };
inline PooledSize check_pool(const char* op, const Window& w, const Nhwc& x, bool ceil_mode) {
  int64_t size[2];
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t in = axis ? x.w : x.h, k = w.kernel[axis], s = w.stride[axis], pad = w.padding[axis];
    STD_TORCH_CHECK(2 * pad <= k, "lightops::", op, ": 'padding' is ", pad, "; want at most half of 'kernel', ", k);
    STD_TORCH_CHECK(in > 0 && in + 2 * pad + (ceil_mode ? s - 1 : 0) >= k, "lightops::", op, ": the kernel covers ", k,
                    axis ? " columns" : " rows", " but the padded input has ", in + 2 * pad);
    size[axis] = pooled_size(in, k, s, pad, ceil_mode);
  }
  return {size[0], size[1]};
}

// Output rows and columns of a window over x; a kernel larger than the padded input is an error.
inline void check_fits(const char* op, const Window& w, const Nhwc& x) {
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t in = (axis ? x.w : x.h) + 2 * w.padding[axis], kernel = w.dilation[axis] * (w.kernel[axis] - 1) + 1;
    STD_TORCH_CHECK(kernel <= in, "lightops::", op, ": the kernel covers ", kernel, axis ? " columns" : " rows",
                    " but the padded input has ", in);
  }
}

// Asks for huge pages under a fresh tensor of some size: large outputs come from the system anew at every call, and
// mapping 77 MB by pages of 4 KiB takes 13.4 ms against 3.8 ms (the kernel's own writes need 1.5 ms).
Tensor on_huge_pages(Tensor t);

inline Tensor new_tensor(const Ints& size, ScalarType type) {
  return torch::stable::empty({size.data(), size.size()}, type);
}

inline Tensor new_image(int64_t n, int64_t c, int64_t h, int64_t w, ScalarType type) {
  const int64_t size[4] = {n, c, h, w};
  return on_huge_pages(torch::stable::empty({size, 4}, type, std::nullopt, std::nullopt, std::nullopt,
                                            torch::headeronly::MemoryFormat::ChannelsLast));
}

// An output that is not wanted is an empty tensor, which kernels know as null.
inline void* data_or_null(const Tensor& t) { return t.numel() > 0 ? t.data_ptr() : nullptr; }

// What an element of a pass over memory is worth in multiply-adds, for the number of threads.
constexpr int64_t kWorkPerElement = 8;

// The caller's pool of threads (torch's own), cut to what `multiply_adds` are worth.
Parallel parallel_for_work(int64_t multiply_adds);

// Scratch of the calling thread, kept between calls: the same few hundred KiB a core stay in its cache from op to op.
void* workspace(int64_t bytes);

}  // namespace binding
}  // namespace lightops
