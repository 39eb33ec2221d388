#pragma once

#include <cstdint>

namespace lightops {

int64_t packed_numel(int64_t out, int64_t in, int64_t kh, int64_t kw, int algo, bool pairs = false);

}  // namespace lightops
