#pragma once

#include <cstdint>

namespace lightops {

const char* isa_name();
const char* isa_reason();
int isa_count_built();
const char* isa_built(int index);
bool isa_reads_pairs();
bool cpu_supports(const char* isa);
void twice(float* x, int64_t n);

}  // namespace lightops
