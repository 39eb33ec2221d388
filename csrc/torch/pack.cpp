#include "lightops/pack.h"

#include "common.h"

namespace lightops {
namespace binding {
namespace {

const double* scale_of(const char* op, const OptionalTensor& scale, int64_t channels) {
  if (!scale.has_value()) return nullptr;
  STD_TORCH_CHECK(scale->is_cpu() && scale->is_contiguous() && scale->scalar_type() == ScalarType::Double &&
                      scale->numel() == channels,
                  "lightops::", op, ": 'scale' must be a contiguous CPU tensor of float64 with ", channels,
                  " elements, got ", scale->numel(), " elements of scalar type ", int(scale->scalar_type()));
  return static_cast<const double*>(scale->data_ptr());
}

template <class P> void fill(const char* op, const Tensor& weight, const OptionalTensor& scale, P* p) {
  STD_TORCH_CHECK(weight.is_cpu(), "lightops::", op, ": 'weight' is not on the CPU");
  STD_TORCH_CHECK(weight.dim() == 4, "lightops::", op, ": 'weight' has shape ", shape_of(weight),
                  "; want 4 dimensions");
  p->weight = weight.data_ptr();
  p->weight_type = dtype_of(op, "weight", weight);
  p->kh = weight.size(2);
  p->kw = weight.size(3);
  for (int i = 0; i < 4; ++i) p->stride[i] = weight.stride(i);
  p->scale = scale_of(op, scale, weight.size(0));
  p->packed_type = p->weight_type == DType::f64 ? DType::f64 : DType::f32;
}

Tensor new_packed(int64_t elements, DType type) {
  return torch::stable::empty({&elements, 1}, type == DType::bf16 ? ScalarType::BFloat16 : compute_type(type));
}

}  // namespace

Tensor pack_conv2d(Tensor weight, OptionalTensor scale, int64_t algo, bool pairs) {
  PackConv2dParams p;
  fill("pack_conv2d", weight, scale, &p);
  p.out = weight.size(0);
  p.in = weight.size(1);
  Window w;
  w.kernel[0] = p.kh;
  w.kernel[1] = p.kw;
  p.algo = algo_of("pack_conv2d", algo, w);
  STD_TORCH_CHECK(!pairs || (algo == 0 && p.packed_type == DType::f32),
                  "lightops::pack_conv2d: 'pairs' are of bfloat16 and direct, ", "got algo ", algo,
                  " and a weight of scalar type ", int(weight.scalar_type()));
  if (pairs) p.packed_type = DType::bf16;
  Tensor packed = new_packed(packed_numel(p.out, p.in, p.kh, p.kw, int(algo), pairs), p.packed_type);
  p.packed = packed.data_ptr();
  lightops::pack_conv2d(p);
  return packed;
}

Tensor pack_depthwise(Tensor weight, OptionalTensor scale) {
  PackDepthwiseParams p;
  fill("pack_depthwise", weight, scale, &p);
  STD_TORCH_CHECK(weight.size(1) == 1, "lightops::pack_depthwise: 'weight' has shape ", shape_of(weight),
                  "; want [C, 1, kh, kw]");
  p.channels = weight.size(0);
  const int64_t size[3] = {ceil_div(p.channels, kGroup), p.kh * p.kw, kGroup};
  Tensor packed = torch::stable::empty({size, 3}, compute_type(p.packed_type));
  p.packed = packed.data_ptr();
  lightops::pack_depthwise(p);
  return packed;
}

STABLE_TORCH_LIBRARY_FRAGMENT(lightops, m) {
  m.def("pack_conv2d(Tensor weight, Tensor? scale, int algo, bool pairs=False) -> Tensor");
  m.def("pack_depthwise(Tensor weight, Tensor? scale) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) {
  m.impl("pack_conv2d", TORCH_BOX(&pack_conv2d));
  m.impl("pack_depthwise", TORCH_BOX(&pack_depthwise));
}

}  // namespace binding
}  // namespace lightops
