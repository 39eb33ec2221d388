// The counters of a split reduction's blocks: cleared here once, left at zero by every launch that uses them.
#include "conv_launch.h"
#include "intrinsics.cuh"

namespace lightops::cuda {

Result clear_arrivals(void* workspace, const Device& device, StreamHandle stream) {
  return {nullptr,
          clear_memory(workspace, static_cast<std::size_t>(arrivals_bytes(device)), static_cast<Stream>(stream))};
}

}  // namespace lightops::cuda
