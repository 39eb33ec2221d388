// A stack switch of a dozen instructions. swapcontext() costs two system calls (it saves the signal mask), which at one
// switch per lane and warp instruction would dominate every run.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" void lightops_fiber_switch(void** save_stack_pointer, void* load_stack_pointer);

namespace emulator {

// Prepares a stack so that the first switch to the returned stack pointer calls `entry`, which must never return.
void* fiber_prepare(unsigned char* stack, std::size_t bytes, void (*entry)());

}  // namespace emulator
