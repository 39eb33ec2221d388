#include "fiber.h"

#include <cstring>

#if defined(__x86_64__)
// System V: rbx, rbp, r12-r15 are preserved across calls; everything else is dead at a call, so it need not be saved.
__asm__(R"(
.text
.globl lightops_fiber_switch
.type lightops_fiber_switch,@function
lightops_fiber_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size lightops_fiber_switch,.-lightops_fiber_switch
)");
constexpr std::size_t kEntryWord = 6;  // the return address sits above the six saved registers
constexpr std::size_t kFrameWords = 8;
#elif defined(__aarch64__)
// AAPCS64: x19-x30 and the low halves of v8-v15 are preserved across calls.
__asm__(R"(
.text
.globl lightops_fiber_switch
.type lightops_fiber_switch,%function
lightops_fiber_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size lightops_fiber_switch,.-lightops_fiber_switch
)");
constexpr std::size_t kEntryWord = 11;  // x30
constexpr std::size_t kFrameWords = 20;
#else
#error "the emulator's stack switch is written for x86-64 and aarch64"
#endif

namespace emulator {

void* fiber_prepare(unsigned char* stack, std::size_t bytes, void (*entry)()) {
  auto top = reinterpret_cast<std::uintptr_t>(stack + bytes) & ~std::uintptr_t{63};
  // x86-64 wants rsp = 8 (mod 16) at a function's first instruction: the frame's 8 words leave it so after `ret`.
  auto* frame = reinterpret_cast<std::uintptr_t*>(top) - kFrameWords;
  std::memset(frame, 0, kFrameWords * sizeof(*frame));
  frame[kEntryWord] = reinterpret_cast<std::uintptr_t>(entry);
  return frame;
}

}  // namespace emulator
