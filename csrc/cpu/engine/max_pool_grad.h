// The gradient of a max-pool, with the maxima found again.
#pragma once

#include "engine/vec.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// One row of windows: `rows` x `columns` pixels of u each, cut to the row's `width`.
template <class C> struct PoolGrad {
  const C* u = nullptr;  // the first of the rows
  int64_t row = 0, pixel = 0, rows = 0, width = 0, channels = 0;
  int64_t columns = 0, stride = 0, padding = 0;
  int64_t first = 0, last = 0;  // of the rows, those whose gradient is wanted
  const C* dy = nullptr;        // [out_width][channels]
  int64_t out_width = 0;
  C* du = nullptr;              // row `first`; dense
};

// Adds dy to du at the maximum of every window: the first in row order, and a NaN before any number (the last one), as
// torch does. What lies outside `first` and `last` is found but not written.
template <class C> void max_pool_grad_row(const PoolGrad<C>& p);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
