#include "memory.h"

#include <cstring>
#include <map>
#include <set>
#include <sstream>

#include "scheduler.h"

namespace emulator {
namespace {

struct FaultRecord {
  std::uint64_t times = 0;
  std::string first;
};
std::map<std::string, FaultRecord> fault_log[static_cast<int>(Fault::count)];

std::vector<Region> region_list;
Region* last_region = nullptr;
bool everything = false;

constexpr std::uint32_t kCell = 2;
// The last write of a cell of shared memory, and per warp the last read of it. Two bytes: neighbouring threads may write one half each.
struct Write {
  std::uint32_t block = 0;  // serial of the block that wrote it: another block's cell is uninitialised here
  std::uint32_t clock = 0;
  std::int16_t thread = -1;
  bool pending = false;
};
constexpr std::uint32_t kManyLanes = 32;  // more than one lane of the warp read the word at that clock

std::vector<unsigned char> shared_store;
std::vector<Write> writes;
std::vector<std::uint32_t> reads;  // [cell][warp]: clock << 6 | lane
unsigned char* shared_base_pointer = nullptr;
std::uint32_t shared_size = 0;
int warp_count = 0;
std::uint32_t block_serial = 0;
std::uint32_t newest_clock = 0;
std::uint32_t clocks[kMaxWarps][kMaxWarps];  // [warp][seen of warp]; the own entry is the warp's running clock

std::string where(std::uint64_t offset) {
  std::ostringstream text;
  const Index3 block = block_index();
  text << "offset " << offset << ", block (" << block.x << "," << block.y << "," << block.z << "), thread "
       << self().number;
  return text.str();
}

bool ordered_after(int warp, bool same_thread, int other_warp, std::uint32_t other_clock) {
  if (same_thread) return true;
  if (warp == other_warp) return clocks[warp][warp] > other_clock;
  return clocks[warp][other_warp] >= other_clock;
}

bool shared_range(const void* address, unsigned bytes, Site site, std::uint32_t* offset) {
  const auto at = reinterpret_cast<std::uintptr_t>(address) - reinterpret_cast<std::uintptr_t>(shared_base_pointer);
  if (at + bytes > shared_size || at > shared_size) {
    report_fault(Fault::shared_out_of_bounds, site, where(at) + " of " + std::to_string(shared_size));
    return false;
  }
  if (at % bytes) {
    report_fault(Fault::shared_misaligned, site, where(at) + ", " + std::to_string(bytes) + " bytes wide");
    return false;
  }
  *offset = static_cast<std::uint32_t>(at);
  return true;
}

void check_write_order(std::uint32_t cell, const Thread& thread, Site site) {
  const Write& last = writes[cell];
  if (last.block == block_serial && last.thread != thread.number &&
      !ordered_after(thread.warp, false, last.thread / 32, last.clock))
    report_fault(Fault::shared_race, site,
                 "write after write of thread " + std::to_string(last.thread) + ", " + where(cell * kCell));
  for (int warp = 0; warp < warp_count; ++warp) {
    const std::uint32_t read = reads[cell * warp_count + warp];
    const bool same = warp == thread.warp && (read & 63) == static_cast<std::uint32_t>(thread.lane);
    if (!ordered_after(thread.warp, same, warp, read >> 6))
      report_fault(Fault::shared_race, site,
                   "write after read of warp " + std::to_string(warp) + ", " + where(cell * kCell));
  }
}

}  // namespace

const char* fault_name(Fault fault) {
  static const char* const names[] = {"global_out_of_bounds", "global_misaligned",    "global_read_only",
                                      "global_race",          "shared_out_of_bounds", "shared_misaligned",
                                      "shared_uninitialised", "shared_race",          "async_read_before_wait",
                                      "divergent_barrier",    "divergent_collective"};
  return names[static_cast<int>(fault)];
}

void report_fault(Fault fault, Site site, const std::string& detail) {
  const char* slash = std::strrchr(site.file, '/');
  FaultRecord& record =
      fault_log[static_cast<int>(fault)][std::string(slash ? slash + 1 : site.file) + ":" + std::to_string(site.line)];
  if (record.times++ == 0) record.first = detail;
}

std::string faults_json() {
  std::ostringstream out;
  out << "[";
  const char* comma = "";
  for (int f = 0; f < static_cast<int>(Fault::count); ++f)
    for (const auto& [site, record] : fault_log[f]) {
      out << comma << "{\"fault\":\"" << fault_name(static_cast<Fault>(f)) << "\",\"site\":\"" << site
          << "\",\"times\":" << record.times << ",\"first\":\"" << record.first << "\"}";
      comma = ",";
    }
  out << "]";
  return out.str();
}

void clear_faults() {
  for (auto& log : fault_log) log.clear();
}

void clear_regions() {
  region_list.clear();
  last_region = nullptr;
  everything = false;
}

void add_region(const void* base, std::uint64_t bytes, bool writable, const char* label) {
  region_list.push_back({static_cast<const unsigned char*>(base),
                         bytes,
                         writable,
                         label,
                         {},
                         std::vector<unsigned char>(bytes / 32 + 2, 0),
                         2});
  last_region = nullptr;
}

void add_everything() {
  region_list.push_back({nullptr, UINT64_MAX, true, "everything", {}, {}, 2});
  everything = true;
}

std::vector<Region>& regions() { return region_list; }

namespace {
constexpr std::uint32_t kLate = 0x80000000u;
std::map<const void*, std::set<std::uint32_t>> arrivals;  // of every counter: blocks, in this launch
std::set<std::uint32_t> known;  // blocks that the one that arrived last knows of
std::uint32_t arrived_block;
}  // namespace

void arrive_at(const void* counter) {
  arrived_block = thread_in_grid() / block_threads();
  known = arrivals[counter];
  arrivals[counter].insert(arrived_block);
}

void check_arrived(const Region& region, const void* address, unsigned bytes, Site site) {
  if (everything || !region.writable) return;
  const std::uint64_t offset = static_cast<const unsigned char*>(address) - region.base;
  const std::uint32_t my_block = thread_in_grid() / block_threads();
  for (std::uint64_t cell = offset / region.cell; cell <= (offset + bytes - 1) / region.cell; ++cell) {
    const std::uint32_t writer = region.writer[cell];
    if (!writer) continue;
    const std::uint32_t block = ((writer & ~kLate) - 1) / block_threads();
    if (block == my_block) continue;
    if (writer & kLate || arrived_block != my_block || !known.count(block))
      report_fault(Fault::global_race, site, region.label + " read before its writer arrived, " + where(offset));
  }
}

void start_launch_tracking() {
  arrivals.clear();
  known.clear();
  arrived_block = ~0u;
  if (everything) return;
  for (Region& region : region_list)
    if (region.writable) region.writer.assign(region.bytes / region.cell + 1, 0);
}

Region* check_global(const void* address, unsigned bytes, bool write, bool atomic, Site site) {
  if (everything) {
    if (reinterpret_cast<std::uintptr_t>(address) % bytes) {
      report_fault(Fault::global_misaligned, site, where(0));
      return nullptr;
    }
    return &region_list.front();
  }
  const auto* at = static_cast<const unsigned char*>(address);
  auto inside = [&](const Region& region) { return at >= region.base && at + bytes <= region.base + region.bytes; };
  if (!last_region || !inside(*last_region)) {
    last_region = nullptr;
    for (Region& region : region_list)
      if (inside(region)) last_region = &region;
  }
  if (!last_region) {
    std::string near = "no region";
    for (Region& region : region_list)
      if (at + 4096 > region.base && at < region.base + region.bytes + 4096)
        near = "near " + region.label + " at byte " + std::to_string(at - region.base) + " of " +
               std::to_string(region.bytes);
    report_fault(Fault::global_out_of_bounds, site, near + ", " + where(0));
    return nullptr;
  }
  Region& region = *last_region;
  const std::uint64_t offset = at - region.base;
  if (reinterpret_cast<std::uintptr_t>(at) % bytes) {
    report_fault(Fault::global_misaligned, site, region.label + " " + where(offset));
    return nullptr;
  }
  if (write && !region.writable) {
    report_fault(Fault::global_read_only, site, region.label + " " + where(offset));
    return nullptr;
  }
  for (std::uint64_t
           s = (reinterpret_cast<std::uintptr_t>(at) / 32) - (reinterpret_cast<std::uintptr_t>(region.base) / 32),
           e = ((reinterpret_cast<std::uintptr_t>(at) + bytes - 1) / 32) -
               (reinterpret_cast<std::uintptr_t>(region.base) / 32);
       s <= e; ++s)
    region.sectors[s] |= write ? 2 : 1;
  if (!region.writable || atomic) return &region;
  if (bytes < region.cell) {
    std::vector<std::uint32_t> halves(region.bytes + 2, 0);
    for (std::uint64_t i = 0; i <= region.bytes; ++i) halves[i] = region.writer[i / 2];
    region.writer.swap(halves);
    region.cell = 1;
  }
  const std::uint32_t me = 1 + thread_in_grid(), my_block = thread_in_grid() / block_threads();
  for (std::uint64_t cell = offset / region.cell; cell <= (offset + bytes - 1) / region.cell; ++cell) {
    std::uint32_t& writer = region.writer[cell];
    const std::uint32_t last = writer & ~kLate;
    const bool other_thread = last && last != me;
    const bool other_block = last && (last - 1) / block_threads() != my_block;
    if (write ? other_thread : other_block)
      report_fault(Fault::global_race, site,
                   region.label + (write ? " written twice, " : " read beside a write, ") + where(offset));
    if (write) writer = me | (arrived_block == my_block ? kLate : 0u);
  }
  return &region;
}

void shared_begin_block(std::uint32_t bytes, int warps) {
  constexpr std::uint32_t kClockLimit = 1u << 25;  // clocks share a 32-bit word with the lane
  const std::uint32_t cells = (bytes + kCell - 1) / kCell;
  if (writes.size() < cells || warps != warp_count || newest_clock > kClockLimit) {
    if (newest_clock > kClockLimit) newest_clock = 0;
    writes.assign(cells, Write{});
    reads.assign(static_cast<std::size_t>(cells) * warps, 0);
    shared_store.assign(bytes + 256, 0);
  }
  warp_count = warps;
  shared_size = bytes;
  const auto raw = reinterpret_cast<std::uintptr_t>(shared_store.data());
  shared_base_pointer = shared_store.data() + (((raw + 127) & ~std::uintptr_t{127}) - raw);
  std::memset(shared_base_pointer, 0xff, bytes);  // NaN in every type the kernels use
  ++block_serial;
  for (int w = 0; w < warps; ++w)
    for (int v = 0; v < warps; ++v) clocks[w][v] = newest_clock + (w == v ? 1 : 0);
  ++newest_clock;
}

unsigned char* shared_data() { return shared_base_pointer; }
std::uint32_t shared_bytes() { return shared_size; }

void clocks_join(std::uint32_t warp_mask) {
  std::uint32_t joined[kMaxWarps] = {};
  for (int w = 0; w < warp_count; ++w)
    if (warp_mask >> w & 1)
      for (int v = 0; v < warp_count; ++v) joined[v] = joined[v] > clocks[w][v] ? joined[v] : clocks[w][v];
  for (int w = 0; w < warp_count; ++w)
    if (warp_mask >> w & 1) {
      const std::uint32_t own = clocks[w][w];
      std::memcpy(clocks[w], joined, sizeof(joined));
      clocks[w][w] = own;
      clock_tick(w);
    }
}

void clock_tick(int warp) {
  if (++clocks[warp][warp] > newest_clock) newest_clock = clocks[warp][warp];
}

bool check_shared(const void* address, unsigned bytes, bool write, Site site) {
  std::uint32_t offset;
  if (!shared_range(address, bytes, site, &offset)) return false;
  const Thread& thread = self();
  const std::uint32_t now = clocks[thread.warp][thread.warp];
  for (std::uint32_t cell = offset / kCell; cell <= (offset + bytes - 1) / kCell; ++cell) {
    Write& last = writes[cell];
    if (write) {
      check_write_order(cell, thread, site);
      last = {block_serial, now, static_cast<std::int16_t>(thread.number), false};
      continue;
    }
    if (last.block != block_serial) {
      report_fault(Fault::shared_uninitialised, site, where(cell * kCell));
      continue;
    }
    if (last.pending) report_fault(Fault::async_read_before_wait, site, where(cell * kCell));
    else if (!ordered_after(thread.warp, last.thread == thread.number, last.thread / 32, last.clock))
      report_fault(Fault::shared_race, site,
                   "read after write of thread " + std::to_string(last.thread) + ", " + where(cell * kCell));
    std::uint32_t& read = reads[cell * warp_count + thread.warp];
    const bool other_lane = read >> 6 == now && (read & 63) != static_cast<std::uint32_t>(thread.lane);
    read = now << 6 | (other_lane ? kManyLanes : thread.lane);
  }
  return true;
}

bool shared_mark_pending(const void* address, unsigned bytes, Site site) {
  std::uint32_t offset;
  if (!shared_range(address, bytes, site, &offset)) return false;
  const Thread& thread = self();
  for (std::uint32_t cell = offset / kCell; cell <= (offset + bytes - 1) / kCell; ++cell) {
    check_write_order(cell, thread, site);
    writes[cell] = {block_serial, clocks[thread.warp][thread.warp], static_cast<std::int16_t>(thread.number), true};
  }
  return true;
}

void shared_complete_pending(void* address, unsigned bytes) {
  const Thread& thread = self();
  const auto offset = static_cast<std::uint32_t>(static_cast<unsigned char*>(address) - shared_base_pointer);
  for (std::uint32_t cell = offset / kCell; cell <= (offset + bytes - 1) / kCell; ++cell)
    writes[cell] = {block_serial, clocks[thread.warp][thread.warp], static_cast<std::int16_t>(thread.number), false};
}

}  // namespace emulator
