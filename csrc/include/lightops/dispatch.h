// Which instruction set the CPU kernels run with: chosen once, when the library is first asked.
#pragma once

#include <cstdint>

namespace lightops {

const char* isa_name();                 // baseline, v3 (AVX2), v4 (AVX-512), v4bf16 (and AVX512-BF16) or neon
int isa_index();                        // its place among those built
const char* isa_reason();               // why this one
int isa_count_built();
const char* isa_built(int index);
bool isa_reads_pairs();                 // whether its products take weights in pairs of bfloat16 (pack.h)
bool cpu_supports(const char* isa);
bool isa_select(const char* isa);       // for tests and benchmarks; false when not built or not supported here

}  // namespace lightops
