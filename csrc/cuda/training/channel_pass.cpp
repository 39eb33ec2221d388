#include "training/channel_pass.h"

#include <algorithm>

#include "plan.h"

namespace lightops::cuda {

void join_images(std::initializer_list<Nhwc*> tensors) {
  for (const Nhwc* t : tensors)
    if (t->data && t->n > 1 && t->h * t->w > 1 && t->image != t->h * t->w * t->pixel) return;
  for (Nhwc* t : tensors) {
    if (t->h * t->w == 1) t->pixel = t->image;
    t->w *= t->n * t->h;
    t->n = t->h = 1;
    t->image = 0;
  }
}

ChannelPass plan_pass(const Nhwc& x, int element_bytes) {
  // Small tensors: a block with a batch of four pixels a thread, rather than multiprocessors without one.
  constexpr int kLeastSteps = 4;
  ChannelPass s{};
  const int64_t chunks = ceil_div(x.c * element_bytes, kChunkBytes);
  // Groups of columns are whole sectors of 32 bytes; where a pixel is not, two of them are.
  s.columns = static_cast<int>(ceil_div(chunks, ceil_div(chunks, kMostColumns)));
  if (chunks % 2 == 0) s.columns += s.columns % 2;
  s.lanes = kPassThreads / s.columns;
  if (chunks % 2) s.lanes -= s.lanes % 2;
  s.groups = static_cast<int>(ceil_div(chunks, s.columns));
  s.pixels = static_cast<int>(x.n * x.h * x.w);
  const int64_t parts = std::max<int64_t>(1, kPassBlocks / s.groups);
  const int64_t step = std::max<int64_t>(ceil_div(s.pixels, parts), s.lanes * kLeastSteps);
  s.step = static_cast<int>(round_up(step, s.lanes));
  s.parts = static_cast<int>(ceil_div(s.pixels, s.step));
  s.height = static_cast<int>(x.h);
  s.width = static_cast<int>(x.w);
  const int row = s.lanes / s.width;
  s.jump_column = s.lanes % s.width;
  s.jump_row = row % s.height;
  s.jump_image = row / s.height;
  return s;
}

const char* pass_refusal(const Nhwc& x, DType type) {
  if (element_bytes(type) == 0) return "the CUDA kernels take float16, bfloat16 and float32";
  if (x.n * x.h * x.w >= (INT64_C(1) << 31) - (1 << 20)) return "2^31 pixels or more";
  if (x.c >= INT64_C(1) << 24) return "2^24 channels or more";
  return nullptr;
}

}  // namespace lightops::cuda
