// One thread makes one 16-byte chunk of a packed row. Weights are small beside activations, and what the strided reads of
// one thread leave of a sector its neighbours find in L2.
#include "training/pack.h"

#include "addressing.cuh"
#include "plan.h"

namespace lightops::cuda {
namespace {

constexpr int kThreads = 256;

struct PackArgs {
  const unsigned char* from;
  unsigned char* to;
  int64_t stride_o, stride_i, stride_y, stride_x;
  int64_t chunks;  // in all
  int row_chunks, rows, depth;  // 16-byte chunks of a row; rows a tap; elements of a row that exist
  int in, kernel_h, kernel_w;
  int packing;
};

// As many as kernel parameters hold: weights are small, and a launch each would cost more than packing them.
constexpr int kMostWeights = 32;
struct PackBatch {
  PackArgs weight[kMostWeights];
  int first_block[kMostWeights];  // of each weight
  int count;
};
static_assert(sizeof(PackBatch) <= 4096, "kernel parameters are 4 KiB at most");

struct WidenArgs {
  const unsigned char* from;
  float* to;
  int64_t elements;
};

template <class Math>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kThreads, 1) pack_kernel(LIGHTOPS_PARAMS(PackBatch) batch) {
  using Store = typename Math::Store;
  constexpr int kElements = kChunkElements<Math>;
  int which = 0;
  while (which + 1 < batch.count && block_x() >= batch.first_block[which + 1]) ++which;
  const PackArgs& a = batch.weight[which];
  const int64_t index = static_cast<int64_t>(block_x() - batch.first_block[which]) * kThreads + thread_index();
  const bool on = index < a.chunks;
  const int64_t row_of_all = on ? index / a.row_chunks : 0;
  const int k0 = on ? static_cast<int>(index - row_of_all * a.row_chunks) * kElements : 0;
  const int group = static_cast<int>(row_of_all / a.rows),
            row = static_cast<int>(row_of_all - static_cast<int64_t>(group) * a.rows);
  const auto packing = static_cast<Packing>(a.packing);
  const int tap = packing == Packing::input_gradient ? a.kernel_h * a.kernel_w - 1 - group : group;
  const auto* const from = reinterpret_cast<const Store*>(a.from);
  Vec16 raw{};
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    const int k = k0 + e;
    int o = row, i = k, at = tap;
    if (packing == Packing::input_gradient) {
      o = k;
      i = row;
    } else if (packing == Packing::gathered) {
      at = k / a.in;
      i = k - at * a.in;
    }
    const int ky = at / a.kernel_w, kx = at - ky * a.kernel_w;
    const bool exists = on && k < a.depth;
    const auto value =
        load_global(from + (exists ? o * a.stride_o + i * a.stride_i + ky * a.stride_y + kx * a.stride_x : 0), exists);
    if constexpr (sizeof(Store) == 4) raw.w[e] = float_to_bits(value);
    else raw.w[e / 2] |= static_cast<uint32_t>(value) << (e % 2 * 16);
  }
  store_global16(a.to + (on ? index : 0) * kChunkBytes, raw, on);
}

template <class Math>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kThreads, 1) widen_kernel(LIGHTOPS_PARAMS(WidenArgs) a) {
  const int64_t index = static_cast<int64_t>(block_x()) * kThreads + thread_index();
  const bool on = index < a.elements;
  const auto* const from = reinterpret_cast<const typename Math::Store*>(a.from);
  store_global(a.to + (on ? index : 0), Math::load(load_global(from + (on ? index : 0), on)), on);
}

int64_t row_depth(const PackProblem& p) {
  switch (p.packing) {
    case Packing::forward: return p.in;
    case Packing::input_gradient: return p.out;
    default: return p.in * p.kernel[0] * p.kernel[1];
  }
}

int64_t row_count(const PackProblem& p) {
  const int64_t taps = p.kernel[0] * p.kernel[1];
  switch (p.packing) {
    case Packing::forward: return taps * p.out;
    case Packing::input_gradient: return taps * p.in;
    default: return p.out;
  }
}

PackArgs pack_args(const PackProblem& p, void* packed) {
  const int bytes = element_bytes(p.type);
  PackArgs a{};
  a.from = static_cast<const unsigned char*>(p.weight.data);
  a.to = static_cast<unsigned char*>(packed);
  a.stride_o = p.weight.stride[0], a.stride_i = p.weight.stride[1], a.stride_y = p.weight.stride[2],
  a.stride_x = p.weight.stride[3];
  a.chunks = packed_bytes(p) / kChunkBytes;
  a.row_chunks = packed_row(row_depth(p), bytes) / (kChunkBytes / bytes);
  a.rows = static_cast<int>(p.packing == Packing::input_gradient ? p.in : p.out);
  a.depth = static_cast<int>(row_depth(p));
  a.in = static_cast<int>(p.in);
  a.kernel_h = static_cast<int>(p.kernel[0]), a.kernel_w = static_cast<int>(p.kernel[1]);
  a.packing = static_cast<int>(p.packing);
  return a;
}

unsigned blocks_for(int64_t threads) { return static_cast<unsigned>(ceil_div(threads, kThreads)); }

}  // namespace

int64_t packed_bytes(const PackProblem& p) {
  const int bytes = element_bytes(p.type);
  return bytes ? row_count(p) * packed_row(row_depth(p), bytes) * bytes : 0;
}

Result run_packs(const std::vector<PackJob>& jobs, StreamHandle handle) {
  const auto stream = static_cast<Stream>(handle);
  PackBatch batch{};
  int64_t blocks = 0;
  const auto launch_batch = [&](int bytes) {
    const auto grid = static_cast<unsigned>(blocks);
    // Bits are moved, not numbers: one kernel serves both 16-bit types.
    const int error = bytes == 2 ? launch<pack_kernel<F16>>(grid, 1, 1, kThreads, 0, stream, batch)
                                 : launch<pack_kernel<F32>>(grid, 1, 1, kThreads, 0, stream, batch);
    blocks = batch.count = 0;
    return error;
  };
  for (size_t i = 0; i < jobs.size(); ++i) {
    const PackProblem& p = jobs[i].problem;
    const int bytes = element_bytes(p.type);
    if (bytes == 0) return {"the CUDA kernels take float16, bfloat16 and float32", 0};
    if (const int64_t chunks = packed_bytes(p) / kChunkBytes) {
      batch.weight[batch.count] = pack_args(p, jobs[i].packed);
      batch.first_block[batch.count++] = static_cast<int>(blocks);
      blocks += ceil_div(chunks, kThreads);
      if (blocks >= INT64_C(1) << 31) return {"more than 2^31 - 1 blocks", 0};
    }
    if (batch.count == kMostWeights || (i + 1 == jobs.size() && batch.count))
      if (const int error = launch_batch(bytes)) return {nullptr, error};
  }
  return {};
}

Result run_widen(const void* from, DType type, int64_t elements, float* to, StreamHandle handle) {
  const WidenArgs a{static_cast<const unsigned char*>(from), to, elements};
  if (elements == 0) return {};
  const unsigned blocks = blocks_for(elements);
  const auto stream = static_cast<Stream>(handle);
  switch (type) {
    case DType::f16: return {nullptr, launch<widen_kernel<F16>>(blocks, 1, 1, kThreads, 0, stream, a)};
    case DType::bf16: return {nullptr, launch<widen_kernel<BF16>>(blocks, 1, 1, kThreads, 0, stream, a)};
    case DType::f32: return {nullptr, launch<widen_kernel<F32>>(blocks, 1, 1, kThreads, 0, stream, a)};
    default: return {"the CUDA kernels take float16, bfloat16 and float32", 0};
  }
}

}  // namespace lightops::cuda
