// Threads of one block as fibers. A fiber runs until a warp instruction or a barrier needs the others.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "memory.h"

namespace emulator {

struct Index3 { unsigned x = 1, y = 1, z = 1; };

struct AsyncCopy {
  void* shared;
  const void* global;
  unsigned bytes;
  bool zero;
};

struct Thread {
  int number = 0;  // in the block
  int warp = 0, lane = 0;
  void* stack_pointer = nullptr;
  bool done = false;
  std::vector<AsyncCopy> open;                 // cp.async since the last commit
  std::vector<std::vector<AsyncCopy>> groups;  // committed, oldest first
};

Thread& self();
Index3 block_index();
Index3 grid_size();
int block_threads();
std::uint32_t thread_in_grid();

using Body = void (*)(void* context);
void run_grid(const char* name, Index3 grid, unsigned threads, std::uint32_t shared_bytes, Body body, void* context);
std::uint64_t launches();
struct Launch {
  Index3 grid;
  unsigned threads;
  std::uint32_t shared;
};
std::vector<Launch>& launch_list();  // since the counters were cleared
void set_dry(bool dry);  // launches are noted, not executed
std::string kernels_run();  // since the library was loaded, a name a line

// All lanes of the warp meet here with the same `kind`; the last to come runs `execute` over the lanes' arguments.
using Execute = void (*)(void* const* lanes, int count);
void warp_collective(int kind, Execute execute, void* arguments, Site site);
void sync_warp_collective(Site site);

// `threads` threads meet at barrier `id` (bar.sync id, threads).
void barrier(int id, int threads, Site site);

void async_copy(void* shared, const void* global, unsigned bytes, bool zero, Site site);
void async_commit();
void async_wait(unsigned groups_left);

}  // namespace emulator
