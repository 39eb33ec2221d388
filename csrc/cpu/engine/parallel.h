// Sharing work between the caller's threads, and cutting the caller's workspace into pieces.
#pragma once

#include "engine/vec.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// Calls f(task) for every task in [0, tasks); returns when all are done.
template <class F> inline void for_tasks(const Parallel& parallel, int64_t tasks, const F& f) {
  if (tasks <= 1 || parallel.threads <= 1) {
    for (int64_t task = 0; task < tasks; ++task) f(task);
    return;
  }
  parallel.run(tasks, [](void* context, int64_t task) { (*static_cast<const F*>(context))(task); }, const_cast<F*>(&f));
}

struct Share {
  int64_t first, last;
  int64_t size() const { return last - first; }
};

// Task `task`'s part of [0, total), boundaries on multiples of `grain`.
inline Share share(int64_t total, int64_t task, int64_t tasks, int64_t grain = 1) {
  const int64_t grains = ceil_div(total, grain);
  const int64_t first = grains * task / tasks * grain, last = grains * (task + 1) / tasks * grain;
  return {first < total ? first : total, last < total ? last : total};
}

// The k-th of a share from its end. A second pass, or the next operator over a large tensor, begins with what was written
// last: the beginning has left the caches by then. Steps at batch 8 on two threads: MobileNetV1 87.2 ms to 85.8,
// MobileNetV2 72.2 to 71.2.
inline int64_t from_end(Share all, int64_t k) { return all.first + all.last - 1 - k; }

// Sharing panels of outputs reads every weight once; sharing pixels reads every activation once. Panels are the better
// cut where the weights are the larger part and come out even.
inline bool share_panels(int64_t panels, int64_t tasks, int64_t weight_elements, int64_t activation_elements) {
  return tasks > 1 && weight_elements > activation_elements && (panels % tasks == 0 || panels >= 8 * tasks);
}

// Fused blocks of a single image are shared by rows, so that what a core writes between the products it mostly reads
// itself; by channels half of it would cross from cache to cache (MobileNetV2's 14 x 14 blocks on two cores: 1.75 times
// one core by rows, 1.1 by channels). Maps of fewer rows than this a task do not come out even: 7 rows are 4 and 3.
constexpr int64_t kRowsPerTask = 4;
inline bool too_few_rows(int64_t images, int64_t rows, int64_t tasks) {
  return images < tasks && rows < kRowsPerTask * tasks;
}

// Before values are written whose lines another core read last: all lines are asked for at once. Stores leave a core in
// order, so that each would wait for its own line to come back: with the batch sums of 960 channels at 7 x 7 as they lay, two
// cores took 0.083 ms for a depthwise forward pass, one 0.080; now 0.073. (The builtin asks for a line to read.)
template <class C> inline void take_back(const C* from, int64_t count) {
  const char* const end = reinterpret_cast<const char*>(from + count);
  for (const char* line = reinterpret_cast<const char*>(from); line < end; line += kCacheLine) {
#if defined(__x86_64__)
    asm volatile("prefetchw %0" : : "m"(*line));
#else
    __builtin_prefetch(line, 1, 3);
#endif
  }
}

// Between scratch that two cores write at the same time, in bytes: the hardware fetches ahead beyond the end of what a core
// walks through, and would take the neighbour's lines from it.
constexpr int64_t kApart = 4096;

// Bytes from one task's scratch to the next one's. In whole MiB every task works at its own addresses whatever an op needs
// of them; where each op cuts the workspace by its own sizes, one core's scratch is what another core wrote an op before, and
// its lines come out of that core's cache (SqueezeNet's kernels, one image on two cores: 1.56 ms, 1.49 so; its stem alone,
// where they only lay side by side, 163 us and 117).
inline int64_t apart(int64_t bytes, [[maybe_unused]] int64_t tasks) {
#if defined(__SANITIZE_ADDRESS__)
  return bytes;  // the sanitizer sees the end of the last one
#else
  return tasks > 1 ? round_up(bytes, 1 << 20) : bytes;
#endif
}

// Bytes of scratch a core works in: half of a 1 MiB L2, the rest is for the weights that stream past.
constexpr int64_t kScratchBytes = 384 << 10;

// Hands out pieces of a workspace; with a null base it only measures. Pieces start on cache lines, and each has one
// vector of slack behind it for whole-vector access at its end.
class Arena {
 public:
  explicit Arena(void* base = nullptr) : base_(static_cast<char*>(base)) {}

  template <class C> C* take(int64_t elements) {
    const int64_t start = used_;
    used_ += round_up(elements * int64_t(sizeof(C)) + kVecBytes, kCacheLine);
    return base_ ? reinterpret_cast<C*>(base_ + start) : nullptr;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
