#include "chain.h"

#include <memory>
#include <mutex>
#include <unordered_map>

namespace lightops {
namespace binding {
namespace {

using Chain = std::vector<ChainStep>;

// Chains by number: a stale number is an error, not an access to freed memory.
struct Chains {
  std::mutex lock;
  std::unordered_map<int64_t, std::shared_ptr<const Chain>> all;
  int64_t next = 1;

  int64_t add(std::shared_ptr<const Chain> chain) {
    const std::lock_guard<std::mutex> held(lock);
    all[next] = std::move(chain);
    return next++;
  }
  std::shared_ptr<const Chain> find(const char* op, int64_t number) {
    const std::lock_guard<std::mutex> held(lock);
    const auto it = all.find(number);
    STD_TORCH_CHECK(it != all.end(), "lightops::", op, ": there is no chain ", number);
    return it->second;
  }
};
Chains& chains() {
  static auto* const kept = new Chains;  // never destroyed: Python frees chains as it ends
  return *kept;
}

}  // namespace

Recording& recording() {
  thread_local Recording r;
  return r;
}

void chain_record(Tensor x) {
  recording() = Recording();
  recording().on = true;
}

int64_t chain_recorded(Tensor x, Tensor out) {
  Recording r = std::move(recording());
  recording() = Recording();
  bool whole = r.on && r.exact && r.calls == 1 && r.out.has_value() && r.x == x.data_ptr();
  // What Python made of the result, if anything, would be missing.
  whole = whole && r.out->data_ptr() == out.data_ptr() && r.out->dim() == out.dim();
  for (int64_t i = 0; whole && i < out.dim(); ++i)
    whole = r.out->size(i) == out.size(i) && r.out->stride(i) == out.stride(i);
  return whole ? chains().add(std::make_shared<const Chain>(1, std::move(r.step))) : 0;
}

int64_t chain_joined(Tensor x, Ints parts) {
  auto chain = std::make_shared<Chain>();
  for (const int64_t part : parts) {
    const auto steps = chains().find("chain_joined", part);
    chain->insert(chain->end(), steps->begin(), steps->end());
  }
  STD_TORCH_CHECK(!chain->empty(), "lightops::chain_joined: 'parts' is empty");
  return chains().add(std::move(chain));
}

Tensor chain_run(Tensor x, int64_t chain) {
  const auto steps = chains().find("chain_run", chain);
  for (const ChainStep& step : *steps) x = step(std::move(x));
  return x;
}

void chain_free(Tensor x, int64_t chain) {
  Chains& c = chains();
  std::shared_ptr<const Chain> last;  // freed outside of the lock
  const std::lock_guard<std::mutex> held(c.lock);
  const auto it = c.all.find(chain);
  if (it == c.all.end()) return;
  last = std::move(it->second);
  c.all.erase(it);
}

STABLE_TORCH_LIBRARY_FRAGMENT(lightops, m) {
  // The next operator on this thread is recorded, until chain_recorded(x, its result): the number of a chain of one step;
  // 0 when what ran in between is not one operator from x to `out`.
  m.def("chain_record(Tensor x) -> ()");
  m.def("chain_recorded(Tensor x, Tensor out) -> int");
  m.def("chain_joined(Tensor x, int[] parts) -> int");
  m.def("chain_run(Tensor x, int chain) -> Tensor");
  m.def("chain_free(Tensor x, int chain) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) {
  m.impl("chain_record", TORCH_BOX(&chain_record));
  m.impl("chain_recorded", TORCH_BOX(&chain_recorded));
  m.impl("chain_joined", TORCH_BOX(&chain_joined));
  m.impl("chain_run", TORCH_BOX(&chain_run));
  m.impl("chain_free", TORCH_BOX(&chain_free));
}

}  // namespace binding
}  // namespace lightops
