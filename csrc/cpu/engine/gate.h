// How the gradient passes an activation that is a clamp: all of it, where z lies strictly between two bounds.
#pragma once

#include "engine/vec.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// relu6 stops the gradient at both bounds, as torch does; a bound that is NaN stops nothing.
template <class C> struct Bounds {
  Vec<C> low, high;
  explicit Bounds(Act act)
      : low(splat(act == Act::relu || act == Act::relu6 ? C(0) : C(__builtin_nanf("")))),
        high(splat(act == Act::relu6 ? C(6) : C(__builtin_nanf("")))) {}

  LIGHTOPS_INLINE Vec<C> operator()(Vec<C> z, Vec<C> gradient) const {
    return ((z <= low) | (z >= high)) ? Vec<C>{} : gradient;
  }
};

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
