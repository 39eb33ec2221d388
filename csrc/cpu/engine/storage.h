// Calls a generic function with a null pointer of the storage type: every type the compute type C may be
// stored as. bf16, as products read it in pairs, comes from bfloat16 tensors alone.
#pragma once

#include "engine/vec.h"

namespace lightops {
namespace LIGHTOPS_ISA {

template <class P> struct PointeeOf;
template <class T> struct PointeeOf<T*> { using type = T; };
template <class P> using Pointee = typename PointeeOf<P>::type;

template <class C> struct Storage {
  template <class F> static void with(DType type, const F& f) {
    if (type == DType::bf16) f(static_cast<bf16*>(nullptr));
    else if (type == DType::f16) f(static_cast<f16*>(nullptr));
    else f(static_cast<float*>(nullptr));
  }
};
template <> struct Storage<bf16> {
  template <class F> static void with(DType, const F& f) { f(static_cast<bf16*>(nullptr)); }
};
template <> struct Storage<double> {
  template <class F> static void with(DType, const F& f) { f(static_cast<double*>(nullptr)); }
};

// One value of a tensor, converted.
LIGHTOPS_INLINE float value_at(const float* p) { return *p; }
LIGHTOPS_INLINE double value_at(const double* p) { return *p; }
template <class T> LIGHTOPS_INLINE float value_at(const T* p) { return load_partial(p, 1)[0]; }
LIGHTOPS_INLINE void set_value(float* p, float v) { *p = v; }
LIGHTOPS_INLINE void set_value(double* p, double v) { *p = v; }
template <class T> LIGHTOPS_INLINE void set_value(T* p, float v) { store_partial(p, splat(v), 1); }

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
