#include "scheduler.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <set>
#include <string>

#include "counters.h"
#include "fiber.h"

namespace emulator {
namespace {

constexpr std::size_t kStackBytes = 96 * 1024;

struct Warp {
  int lanes = 0, exited = 0;
  int arrived = 0;
  int kind = -1;
  bool mixed = false;  // lanes met in different instructions: reported, and none is executed
  Site site{"", 0};
  void* arguments[32] = {};
};

struct Barrier {
  std::vector<Thread*> waiting;
  int threads = 0;
  Site site{"", 0};
};
constexpr int kBarriers = 16;

std::vector<std::unique_ptr<unsigned char[]>> stacks;
std::vector<Thread> threads;
std::vector<Warp> warps;
Barrier barriers[kBarriers];
std::vector<Thread*> ready;  // ring buffer, one slot per thread is enough
std::size_t ready_head = 0, ready_count = 0;
Thread* current = nullptr;
void* main_stack_pointer = nullptr;
Body body_function = nullptr;
void* body_context = nullptr;
Index3 current_block, current_grid;
unsigned threads_per_block = 0;
int exited_threads = 0;
std::uint64_t launch_count = 0;
std::vector<Launch> launched;
std::set<std::string> kernel_names;
bool dry_run = false;

void push_ready(Thread* thread) { ready[(ready_head + ready_count++) % ready.size()] = thread; }

// Gives the processor to the next ready fiber, or back to run_block when there is none (end of block, or a deadlock).
void yield_from(void** save) {
  void* next = main_stack_pointer;
  if (ready_count) {
    current = ready[ready_head];
    ready_head = (ready_head + 1) % ready.size();
    --ready_count;
    next = current->stack_pointer;
  } else {
    current = nullptr;
  }
  lightops_fiber_switch(save, next);
}

void wait() {
  Thread* me = current;
  yield_from(&me->stack_pointer);
}

void thread_entry() {
  body_function(body_context);
  Thread* me = current;
  if (!me->open.empty() || !me->groups.empty()) async_wait(0);
  me->done = true;
  ++exited_threads;
  ++warps[me->warp].exited;
  yield_from(&me->stack_pointer);
  __builtin_unreachable();
}

void report_deadlock() {
  for (int id = 0; id < kBarriers; ++id)
    if (!barriers[id].waiting.empty())
      report_fault(Fault::divergent_barrier, barriers[id].site,
                   std::to_string(barriers[id].waiting.size()) + " of " + std::to_string(barriers[id].threads) +
                       " threads wait at barrier " + std::to_string(id) + ", " + std::to_string(exited_threads) +
                       " have exited");
  for (std::size_t w = 0; w < warps.size(); ++w)
    if (warps[w].arrived)
      report_fault(Fault::divergent_collective, warps[w].site,
                   std::to_string(warps[w].arrived) + " of " + std::to_string(warps[w].lanes) + " lanes of warp " +
                       std::to_string(w));
}

void run_block(std::uint32_t shared) {
  const int count = static_cast<int>(threads_per_block);
  shared_begin_block(shared, (count + 31) / 32);
  for (Barrier& b : barriers) b = Barrier{};
  warps.assign((count + 31) / 32, Warp{});
  ready_head = ready_count = 0;
  exited_threads = 0;
  for (int t = 0; t < count; ++t) {
    Thread& thread = threads[t];
    thread.number = t;
    thread.warp = t / 32;
    thread.lane = t % 32;
    thread.done = false;
    thread.open.clear();
    thread.groups.clear();
    thread.stack_pointer = fiber_prepare(stacks[t].get(), kStackBytes, thread_entry);
    ++warps[thread.warp].lanes;
  }
  // Odd blocks start their warps backwards: a kernel must not lean on an order the hardware does not promise.
  const bool backwards = (current_block.x + current_block.y + current_block.z) & 1;
  const int warp_total = static_cast<int>(warps.size());
  for (int w = 0; w < warp_total; ++w)
    for (int lane = 0; lane < 32; ++lane) {
      const int t = (backwards ? warp_total - 1 - w : w) * 32 + lane;
      if (t < count) push_ready(&threads[t]);
    }
  yield_from(&main_stack_pointer);
  if (exited_threads != count) report_deadlock();
  finish_block();
}

}  // namespace

Thread& self() { return *current; }
Index3 block_index() { return current_block; }
Index3 grid_size() { return current_grid; }
int block_threads() { return static_cast<int>(threads_per_block); }
std::uint64_t launches() { return launch_count; }
std::vector<Launch>& launch_list() { return launched; }

void set_dry(bool dry) { dry_run = dry; }

std::string kernels_run() {
  std::string lines;
  for (const std::string& name : kernel_names) lines += name + "\n";
  return lines;
}

std::uint32_t thread_in_grid() {
  const std::uint32_t block = (current_block.z * current_grid.y + current_block.y) * current_grid.x + current_block.x;
  return block * threads_per_block + self().number;
}

void run_grid(const char* name, Index3 grid, unsigned block, std::uint32_t shared, Body body, void* context) {
  ++launch_count;
  launched.push_back({grid, block, shared});
  kernel_names.insert(name);
  if (dry_run) return;
  threads_per_block = block;
  current_grid = grid;
  body_function = body;
  body_context = context;
  threads.resize(block);
  ready.assign(block, nullptr);
  while (stacks.size() < block) stacks.emplace_back(new unsigned char[kStackBytes]);
  start_launch_tracking();
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        current_block = {x, y, z};
        run_block(shared);
      }
}

void warp_collective(int kind, Execute execute, void* arguments, Site site) {
  Thread& me = self();
  Warp& warp = warps[me.warp];
  if (warp.arrived && warp.kind != kind) {
    warp.mixed = true;
    report_fault(Fault::divergent_collective, site,
                 "another instruction is under way in warp " + std::to_string(me.warp));
  }
  if (warp.exited)
    report_fault(Fault::divergent_collective, site, std::to_string(warp.exited) + " lanes of the warp have exited");
  warp.kind = kind;
  warp.site = site;
  warp.arguments[me.lane] = arguments;
  if (++warp.arrived < warp.lanes) return wait();
  if (!warp.mixed) execute(warp.arguments, warp.lanes);
  warp.mixed = false;
  warp.arrived = 0;
  warp.kind = -1;
  for (int lane = 0; lane < warp.lanes; ++lane)
    if (lane != me.lane) push_ready(&threads[me.warp * 32 + lane]);
}

void sync_warp_collective(Site site) {
  warp_collective(0, [](void* const*, int) { clock_tick(self().warp); }, nullptr, site);
}

void barrier(int id, int count, Site site) {
  Thread& me = self();
  Barrier& b = barriers[id];
  if (!b.waiting.empty() && (b.site.line != site.line || b.threads != count))
    report_fault(Fault::divergent_barrier, site,
                 "barrier " + std::to_string(id) + " is also waited for at line " + std::to_string(b.site.line));
  if (id == 0 && exited_threads)
    report_fault(Fault::divergent_barrier, site, std::to_string(exited_threads) + " threads of the block have exited");
  b.site = site;
  b.threads = count;
  b.waiting.push_back(&me);
  if (static_cast<int>(b.waiting.size()) < count) return wait();
  std::uint32_t mask = 0;
  for (const Thread* thread : b.waiting) mask |= 1u << thread->warp;
  clocks_join(mask);
  for (Thread* thread : b.waiting)
    if (thread != &me) push_ready(thread);
  b.waiting.clear();
}

void async_copy(void* shared, const void* global, unsigned bytes, bool zero, Site site) {
  Region* region = zero ? nullptr : check_global(global, bytes, false, false, site);
  count_global(global, zero ? 0 : bytes, false, region, site);
  count_shared(shared, bytes, true, site);
  if (!shared_mark_pending(shared, bytes, site)) return;
  self().open.push_back({shared, global, bytes, zero || !region});
}

void async_commit() {
  Thread& me = self();
  me.groups.push_back(std::move(me.open));
  me.open.clear();
}

void async_wait(unsigned groups_left) {
  Thread& me = self();
  if (groups_left == 0 && !me.open.empty() && me.done) async_commit();
  while (me.groups.size() > groups_left) {
    for (const AsyncCopy& copy : me.groups.front()) {
      if (copy.zero) std::memset(copy.shared, 0, copy.bytes);
      else std::memcpy(copy.shared, copy.global, copy.bytes);
      shared_complete_pending(copy.shared, copy.bytes);
    }
    me.groups.erase(me.groups.begin());
  }
}

}  // namespace emulator
