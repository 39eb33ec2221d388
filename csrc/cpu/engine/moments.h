// Batch statistics: mean and sum of squared deviations of a chunk of pixels while it is in cache, merged over chunks.
#pragma once

#include "engine/vec.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// mean[c] and deviation[c] = sum over pixels (x - mean)^2, in two passes: never E[x^2] - E[x]^2. Zero pixels: zeros.
template <class C>
void moments(const void* x, DType type, int64_t stride, int64_t pixels, int64_t channels, C* mean, C* deviation);

// Mean and biased variance of all chunks, in double and in the order of the chunks (Chan's formula with the common mean
// known): the result does not depend on who computed which chunk. Chunk i holds counts[i] pixels; its mean lies at
// parts + i * 2 * stride, its deviation `stride` behind it.
template <class C>
void merge_moments(const C* parts, const int64_t* counts, int64_t chunks, int64_t stride, int64_t channels, C* mean,
                   C* variance);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
