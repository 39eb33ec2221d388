// The gradient of a convolution's input, taken on through the activation and the norm that the input came from. Where the kernel of
// gradient_conv.h serves, du is never stored; otherwise it is, and run_norm_backward does the rest.
#pragma once

#include <vector>

#include "training/gradient_conv.h"
#include "training/norm.h"

namespace lightops::cuda {

struct MaskedGradient {
  // Of packed weights. One: out is norm.du, where du goes if it has to be stored. Several, or one of a lattice: their lattices make up
  // the map, `out` has their sizes; du is never stored.
  std::vector<ConvProblem> convs;
  NormGradient norm;
};

// Whether du is not stored: norm.du may then lie nowhere.
bool masks_in_place(const MaskedGradient& g, const Device& device);
int64_t masked_gradient_workspace(const MaskedGradient& g, const Device& device);
Result run_masked_gradient(const MaskedGradient& g, void* workspace, const Device& device, StreamHandle stream);

}  // namespace lightops::cuda
