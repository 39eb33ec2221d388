// Traffic of one launch, counted per warp instruction: sectors of 32 bytes in global memory, wavefronts in shared memory.
#pragma once

#include <cstdint>
#include <string>

#include "memory.h"

namespace emulator {

void set_counting(bool on);
bool counting();
void clear_counters();

// One lane's share of a warp instruction. A lane that is predicated off still calls, with bytes = 0, so that the n-th
// execution of a line means the same instruction in every lane.
void count_global(const void* address, unsigned bytes, bool write, Region* region, Site site);
void count_shared(const void* address, unsigned bytes, bool write, Site site);
void count_mma(std::uint64_t multiply_adds);
void finish_block();

std::string counters_json();

}  // namespace emulator
