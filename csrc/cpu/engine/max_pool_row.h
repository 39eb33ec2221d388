// Max-pool of a row of pixels in the compute type.
#pragma once

#include "engine/vec.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// Max-pool of one output row: `rows` input rows (in_row apart, their pixels in_pixel), of which output x covers columns
// [x * stride - pad, + kernel) cut to the row. NaN wins, as in torch.
template <class C>
void max_pool_row(const C* in, int64_t in_row, int64_t in_pixel, int64_t rows, int64_t in_width, int64_t channels,
                  int64_t kernel, int64_t stride, int64_t pad, int64_t out_width, void* out, DType type,
                  int64_t out_pixel);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
