// Activations on vectors. relu, relu6 and none are one clamp; hardswish and silu take the slower `smooth` path.
#pragma once

#include <math.h>

#include "engine/vec.h"

namespace lightops {
namespace LIGHTOPS_ISA {

inline bool is_clamp(Act act) { return act == Act::none || act == Act::relu || act == Act::relu6; }

template <class C> struct Clamp {
  Vec<C> low, high;

  explicit Clamp(Act act)
      : low(splat(act == Act::relu || act == Act::relu6 ? C(0) : -C(__builtin_inff()))),
        high(splat(act == Act::relu6 ? C(6) : C(__builtin_inff()))) {}
  LIGHTOPS_INLINE Vec<C> operator()(Vec<C> v) const { return at_most(at_least(v, low), high); }
};

inline float exp_of(float x) { return expf(x); }
inline double exp_of(double x) { return exp(x); }

template <class C> inline Vec<C> smooth(Vec<C> v, Act act) {
  if (act == Act::hardswish) {
    Vec<C> gate = at_most(at_least(v + splat(C(3)), splat(C(0))), splat(C(6)));
    return v * gate / splat(C(6));
  }
  C x[kLanes<C>];
  store(x, v);
  for (int i = 0; i < kLanes<C>; ++i) x[i] = x[i] / (C(1) + exp_of(-x[i]));
  return load(x);
}

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
