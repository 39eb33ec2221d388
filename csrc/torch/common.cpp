#include "common.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <memory>

namespace lightops {
namespace binding {
namespace {

// Starting the pool and meeting again costs 2-4 us, in which a core does some 400,000 multiply-adds.
constexpr int64_t kWorkPerThread = 400000;

void run_tasks(int64_t tasks, void (*body)(void*, int64_t), void* context) {
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) body(context, task);
  });
}

struct Free {
  void operator()(void* p) const { free(p); }
};

}  // namespace

Parallel parallel_for_work(int64_t multiply_adds) {
  const int64_t worth = multiply_adds / kWorkPerThread, pool = torch::stable::get_num_threads();
  Parallel p;
  p.threads = int(worth < 1 ? 1 : worth < pool ? worth : pool);
  p.run = run_tasks;
  return p;
}

Tensor on_huge_pages(Tensor t) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr int64_t kHuge = 2 << 20, kPage = 4096;
  const int64_t bytes = t.numel() * t.element_size();
  if (bytes >= 2 * kHuge) {
    const int64_t start = round_up(reinterpret_cast<int64_t>(t.data_ptr()), kPage);
    const int64_t end = (reinterpret_cast<int64_t>(t.data_ptr()) + bytes) / kPage * kPage;
    madvise(reinterpret_cast<void*>(start), size_t(end - start), MADV_HUGEPAGE);  // a hint: refused, nothing changes
  }
#endif
  return t;
}

void* workspace(int64_t bytes) {
  thread_local std::unique_ptr<void, Free> block;
  thread_local int64_t size = 0;
#if defined(__SANITIZE_ADDRESS__)
  const bool fits = size == bytes;  // an exact block each time, so that the sanitizer sees its ends
#else
  const bool fits = size >= bytes;
#endif
  if (!fits) {
    block.reset();
    size = 0;
    const size_t whole = size_t(bytes > 0 ? bytes : 1);
    void* fresh = nullptr;
    STD_TORCH_CHECK(posix_memalign(&fresh, 64, whole) == 0, "lightops: no memory for ", whole, " bytes of workspace");
    block.reset(fresh);
    size = bytes;
  }
  return block.get();
}

}  // namespace binding
}  // namespace lightops
