// The second half of every sum over pixels: parts [part][kind][channel] that blocks left in the workspace, added in order.
#pragma once

#include "intrinsics.cuh"

namespace lightops::cuda {

constexpr int kMergeChannels = 8;  // 32 bytes of a row of parts
constexpr int kMergeLanes = 32;
constexpr int kMergeThreads = kMergeChannels * kMergeLanes;

// A job: kKinds sums in double; add(part, channel, sums) for the parts a thread takes; finish(channel, sums) once a channel. Grid: x =
// kMergeChannels channels; thread t takes channel t % 8 and every 32nd part from t / 8.
template <class Job>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kMergeThreads, 1) merge_kernel(LIGHTOPS_PARAMS(Job) job) {
  const int slot = thread_index() % kMergeChannels, lane = thread_index() / kMergeChannels;
  const int channel = block_x() * kMergeChannels + slot;
  const bool on = channel < job.channels;
  double sums[Job::kKinds] = {};
#pragma unroll 4
  for (int part = lane; part < job.parts; part += kMergeLanes) job.add(part, channel, on, sums);
  auto* const shared = reinterpret_cast<double*>(shared_memory());
#pragma unroll
  for (int k = 0; k < Job::kKinds; ++k) store_shared(shared + k * kMergeThreads + thread_index(), sums[k]);
  sync_threads();
  if (lane > 0) return;
#pragma unroll
  for (int k = 0; k < Job::kKinds; ++k) {
    sums[k] = 0;
#pragma unroll 8
    for (int l = 0; l < kMergeLanes; ++l)
      sums[k] += load_shared<double>(shared + k * kMergeThreads + l * kMergeChannels + slot);
  }
  if (on) job.finish(channel, sums);
}

template <class Job>
int launch_merge(const Job& job, Stream stream) {
  const unsigned blocks = (job.channels + kMergeChannels - 1) / kMergeChannels;
  return launch<merge_kernel<Job>>(blocks, 1, 1, kMergeThreads, Job::kKinds * kMergeThreads * 8, stream, job);
}

}  // namespace lightops::cuda
