#include "counters.h"

#include <algorithm>
#include <map>
#include <sstream>
#include <unordered_map>
#include <vector>

#include "scheduler.h"

namespace emulator {
namespace {

struct Lane {
  std::uintptr_t address;
  unsigned bytes;
  unsigned number;  // lanes reach an instruction in any order; the hardware serves them by number
};
struct Instruction { std::vector<Lane> lanes; };
struct SiteLog {
  std::uint32_t times[32] = {};
  std::vector<Instruction> instructions;
  bool write = false;
  Site site{"", 0};
};
using Log = std::unordered_map<std::uintptr_t, SiteLog>;

struct Traffic {
  std::uint64_t requested = 0;  // bytes asked for by lanes
  std::uint64_t sectors = 0;    // 32-byte sectors fetched, one count per warp instruction
  std::uint64_t block_sectors = 0;  // sectors distinct within a block: what leaves an L1 that holds the block's tile
};

bool enabled = false;
std::map<std::string, Traffic> read_traffic, write_traffic;
std::uint64_t shared_instructions = 0, shared_wavefronts = 0, shared_ideal = 0, multiply_adds = 0;
std::vector<Log> global_log(kMaxWarps), shared_log(kMaxWarps);
std::map<std::pair<std::string, bool>, std::vector<std::uintptr_t>> block_touched;
std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> conflict_sites;

std::uintptr_t key(Site site) { return reinterpret_cast<std::uintptr_t>(site.file) * 8192 + site.line; }

void log(Log& log, const void* address, unsigned bytes, bool write, Site site) {
  SiteLog& at = log[key(site) * 2 + write];  // a line may both load and store
  at.write = write;
  at.site = site;
  const std::uint32_t n = at.times[self().lane]++;
  if (at.instructions.size() <= n) at.instructions.resize(n + 1);
  if (bytes)
    at.instructions[n].lanes.push_back(
        {reinterpret_cast<std::uintptr_t>(address), bytes, static_cast<unsigned>(self().lane)});
}

// A warp's shared access runs as 128-byte phases (32, 16 or 8 lanes for 4, 8 or 16 bytes a lane); within a phase each
// of the 32 banks serves one 4-byte word a wavefront.
void settle_shared(const SiteLog& at) {
  for (const Instruction& instruction : at.instructions) {
    if (instruction.lanes.empty()) continue;
    ++shared_instructions;
    const unsigned width = std::max(4u, instruction.lanes.front().bytes), lanes_a_phase = 128 / width;
    std::uint64_t wavefronts = 0, ideal = 0;
    for (unsigned phase = 0; phase < 32 / lanes_a_phase; ++phase) {
      std::vector<std::uintptr_t> words;
      for (const Lane& lane : instruction.lanes)
        if (lane.number / lanes_a_phase == phase)
          for (unsigned b = 0; b < width; b += 4) words.push_back((lane.address + b) / 4);
      if (words.empty()) continue;
      std::sort(words.begin(), words.end());
      words.erase(std::unique(words.begin(), words.end()), words.end());
      unsigned banks[32] = {}, worst = 1;
      for (std::uintptr_t word : words) worst = std::max(worst, ++banks[word % 32]);
      wavefronts += worst;
      ++ideal;
    }
    shared_wavefronts += wavefronts;
    shared_ideal += ideal;
    const std::string file = at.site.file;
    auto& spot = conflict_sites[file.substr(file.rfind('/') + 1) + ":" + std::to_string(at.site.line)];
    spot.first += wavefronts - ideal;
    spot.second += ideal;
  }
}

}  // namespace

void set_counting(bool on) { enabled = on; }
bool counting() { return enabled; }

void clear_counters() {
  read_traffic.clear();
  write_traffic.clear();
  conflict_sites.clear();
  launch_list().clear();
  shared_instructions = shared_wavefronts = shared_ideal = multiply_adds = 0;
}

void count_global(const void* address, unsigned bytes, bool write, Region* region, Site site) {
  if (!enabled) return;
  log(global_log[self().warp], address, region ? bytes : 0, write, site);
}

void count_shared(const void* address, unsigned bytes, bool write, Site site) {
  if (enabled) log(shared_log[self().warp], address, bytes, write, site);
}

void count_mma(std::uint64_t count) { multiply_adds += count; }

void finish_block() {
  if (!enabled) return;
  for (Log& warp : global_log) {
    for (const auto& [_, at] : warp)
      for (const Instruction& instruction : at.instructions) {
        std::map<const Region*, std::vector<std::uintptr_t>> sectors;
        for (const Lane& lane : instruction.lanes)
          for (const Region& region : regions())
            if (lane.address >= reinterpret_cast<std::uintptr_t>(region.base) &&
                lane.address < reinterpret_cast<std::uintptr_t>(region.base) + region.bytes) {
              (at.write ? write_traffic : read_traffic)[region.label].requested += lane.bytes;
              for (std::uintptr_t s = lane.address / 32; s <= (lane.address + lane.bytes - 1) / 32; ++s)
                sectors[&region].push_back(s);
              break;
            }
        for (auto& [region, list] : sectors) {
          std::sort(list.begin(), list.end());
          list.erase(std::unique(list.begin(), list.end()), list.end());
          (at.write ? write_traffic : read_traffic)[region->label].sectors += list.size();
          auto& touched = block_touched[{region->label, at.write}];
          touched.insert(touched.end(), list.begin(), list.end());
        }
      }
    warp.clear();
  }
  for (auto& [which, list] : block_touched) {
    std::sort(list.begin(), list.end());
    list.erase(std::unique(list.begin(), list.end()), list.end());
    (which.second ? write_traffic : read_traffic)[which.first].block_sectors += list.size();
  }
  block_touched.clear();
  for (Log& warp : shared_log) {
    for (const auto& [_, at] : warp) settle_shared(at);
    warp.clear();
  }
}

std::string counters_json() {
  std::ostringstream out;
  out << "{\"shared_instructions\":" << shared_instructions << ",\"shared_wavefronts\":" << shared_wavefronts
      << ",\"shared_ideal\":" << shared_ideal << ",\"multiply_adds\":" << multiply_adds
      << ",\"launches\":" << launches();
  out << ",\"grids\":[";
  for (std::size_t i = 0; i < launch_list().size(); ++i) {
    const Launch& l = launch_list()[i];
    out << (i ? "," : "") << "[" << l.grid.x << "," << l.grid.y << "," << l.grid.z << "," << l.threads << ","
        << l.shared << "]";
  }
  out << "]";
  out << ",\"conflicts\":{";
  const char* comma = "";
  for (const auto& [site, count] : conflict_sites) {
    out << comma << "\"" << site << "\":[" << count.first << "," << count.second << "]";
    comma = ",";
  }
  out << "}";
  for (const auto* traffic : {&read_traffic, &write_traffic}) {
    out << (traffic == &read_traffic ? ",\"read\":{" : ",\"written\":{");
    comma = "";
    for (const auto& [label, t] : *traffic) {
      out << comma << "\"" << label << "\":{\"requested\":" << t.requested << ",\"sector_bytes\":" << t.sectors * 32
          << ",\"block_bytes\":" << t.block_sectors * 32 << "}";
      comma = ",";
    }
    out << "}";
  }
  out << ",\"touched\":{";
  comma = "";
  for (const Region& region : regions()) {
    std::uint64_t read = 0, written = 0;
    for (unsigned char s : region.sectors) {
      read += s & 1;
      written += s >> 1;
    }
    out << comma << "\"" << region.label << "\":[" << read * 32 << "," << written * 32 << "]";
    comma = ",";
  }
  out << "}}";
  return out.str();
}

}  // namespace emulator
