// The one place that asks the CUDA runtime about devices.
#ifndef LIGHTOPS_EMULATE

#include <cuda_runtime.h>

#include <atomic>

#include "lightops/cuda.h"

namespace lightops::cuda {
namespace {

constexpr int kDevices = 64;

struct Known {
  std::atomic<int> multiprocessors{0}, shared_limit{0};  // 0: not asked yet; two threads that ask get the same answer
};
Known known[kDevices];

}  // namespace

int use_device(int index, Device* device) {
  // The static runtime keeps a current device of its own beside torch's, so it is set on every call; setting the device that is
  // current already costs a comparison.
  const cudaError_t error = cudaSetDevice(index);
  if (error != cudaSuccess) return static_cast<int>(error);
  if (index < 0 || index >= kDevices) return static_cast<int>(cudaErrorInvalidDevice);
  Known& k = known[index];
  if (k.shared_limit == 0) {
    int multiprocessors = 0, shared = 0;
    const cudaError_t first = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, index);
    const cudaError_t second = cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
    if (first != cudaSuccess || second != cudaSuccess) return static_cast<int>(first != cudaSuccess ? first : second);
    k.multiprocessors = multiprocessors;
    k.shared_limit = shared;
  }
  device->multiprocessors = k.multiprocessors;
  device->shared_limit = k.shared_limit;
  return 0;
}

const char* error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace lightops::cuda

#endif
