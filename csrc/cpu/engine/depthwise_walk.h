// Both gradients of a 3x3 depthwise convolution by walking along rows, a vector of channels at a time: the nine sums of
// the weights' gradient and the values of dy around the pixel stay in registers, so that a pixel costs its 18 multiply-adds
// and few loads. Where 32 registers hold that (AVX-512); elsewhere, and for other windows, the blocks of depthwise_grad.h.
#pragma once

#include "engine/depthwise_grad.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// Whether it is walked: 3x3, padding 1, no dilation, stride 1 or 2, whole vectors of channels.
template <class C> bool depthwise_walks(const DepthwiseGrad<C>& d);

// Elements of scratch that a walk needs.
template <class C> int64_t depthwise_walk_scratch(const DepthwiseGrad<C>& d);

// Rows [y, y + rows) of u, with what depthwise_grad_row and depthwise_norm_row say of each:
//   norm null: du to `out`, the weights' gradient added to `sum` unless that is null;
//   norm without a: the same from u = act(norm(x)), where x is what `u` points to; dz to `out` unless that is null, and its
//     two sums added to sums[c] and sums[channels + c];
//   norm with a: dx to `out`; sum and sums are null.
// `u` and `out` are row y, `dy` is row dy_first of dy.
template <class C>
void depthwise_walk(const DepthwiseGrad<C>& d, const NormBackward<C>* norm, const C* dy, int64_t dy_first, int64_t y,
                    int64_t rows, const C* u, C* out, C* sum, C* sums, C* scratch);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
