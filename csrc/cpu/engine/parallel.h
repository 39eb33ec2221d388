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
  parallel.run(tasks, [](void* context, int64_t task) { (*static_cast<const F*>(context))(task); },
               const_cast<F*>(&f));
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

// Sharing panels of outputs reads every weight once; sharing pixels reads every activation once. Panels are the better
// cut where the weights are the larger part and come out even.
inline bool share_panels(int64_t panels, int64_t tasks, int64_t weight_elements, int64_t activation_elements) {
  return tasks > 1 && weight_elements > activation_elements && (panels % tasks == 0 || panels >= 8 * tasks);
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
