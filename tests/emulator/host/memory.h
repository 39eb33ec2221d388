// What the emulator knows about memory: global regions the harness registered, and one shadow entry per shared word.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace emulator {

// Classes of fault. Each has a planted example in tests/emulator/test_faults.py.
enum class Fault {
  global_out_of_bounds,
  global_misaligned,
  global_read_only,
  global_race,
  shared_out_of_bounds,
  shared_misaligned,
  shared_uninitialised,
  shared_race,
  async_read_before_wait,
  divergent_barrier,
  divergent_collective,
  count
};
const char* fault_name(Fault fault);

struct Site {
  const char* file;
  int line;
};

void report_fault(Fault fault, Site site, const std::string& detail);
std::string faults_json();
void clear_faults();

// --- global memory ---------------------------------------------------------------------------------------------------
struct Region {
  const unsigned char* base;
  std::uint64_t bytes;
  bool writable;
  std::string label;
  // Who wrote each cell in this launch (0: nobody, else 1 + thread number in the grid): two writers, or a reader in another block than
  // the writer, are a race, because blocks are not ordered. kLate: written after the block's arrival. A cell is two bytes, from the
  // first access of a byte on one.
  std::vector<std::uint32_t> writer;
  // Sectors of 32 bytes touched since the region was added: bit 0 read, bit 1 written.
  std::vector<unsigned char> sectors;
  std::uint64_t cell;
};

void clear_regions();
void add_region(const void* base, std::uint64_t bytes, bool writable, const char* label);
void add_everything();  // any address is legal: for callers whose memory is not known beforehand
std::vector<Region>& regions();
void start_launch_tracking();
// Null when the access is a fault (which has then been reported).
Region* check_global(const void* address, unsigned bytes, bool write, bool atomic, Site site);
// A block counts itself at `counter`. check_arrived: what it reads of other blocks they must have written before they did.
void arrive_at(const void* counter);
void check_arrived(const Region& region, const void* address, unsigned bytes, Site site);

// --- shared memory ---------------------------------------------------------------------------------------------------
// Happens-before follows FastTrack: a warp is the clocked entity, barriers join the clocks of the warps that meet in
// them, __syncwarp orders the lanes of one warp. An access races with an earlier one it is not ordered after.
constexpr int kMaxWarps = 32;

void shared_begin_block(std::uint32_t bytes, int warps);
unsigned char* shared_data();
std::uint32_t shared_bytes();

void clocks_join(std::uint32_t warp_mask);   // a barrier met by these warps
void clock_tick(int warp);                   // __syncwarp

bool check_shared(const void* address, unsigned bytes, bool write, Site site);
// cp.async: the words are written at the wait, so until then a read of them is a fault.
bool shared_mark_pending(const void* address, unsigned bytes, Site site);
void shared_complete_pending(void* address, unsigned bytes);

}  // namespace emulator
