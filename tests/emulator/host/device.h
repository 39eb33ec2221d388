// The emulator's side of csrc/cuda/intrinsics.cuh: the same functions, instrumented. Sites are taken from the line that
// calls a wrapper, so that every lane of a warp names the same instruction whatever the host compiler does with the code.
#pragma once

#include <cstdint>
#include <cstring>

#include "counters.h"
#include "scheduler.h"

#define LIGHTOPS_KERNEL static void
#define LIGHTOPS_DEVICE inline
#define LIGHTOPS_LAUNCH_BOUNDS(threads, blocks)
#define LIGHTOPS_PARAMS(Type) const Type
#define LIGHTOPS_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define LIGHTOPS_AT \
  ::emulator::Site { file, line }

namespace lightops::cuda {

struct alignas(16) Vec16 { std::uint32_t w[4]; };
struct alignas(8) Vec8 { std::uint32_t w[2]; };
struct Word { std::uint32_t w[1]; };

inline int thread_index() { return emulator::self().number; }
inline int block_x() { return static_cast<int>(emulator::block_index().x); }
inline int block_y() { return static_cast<int>(emulator::block_index().y); }
inline int block_z() { return static_cast<int>(emulator::block_index().z); }
inline unsigned char* shared_memory() { return emulator::shared_data(); }

// --- conversions -----------------------------------------------------------------------------------------------------
float f16_to_float(std::uint16_t bits);
std::uint16_t float_to_f16(float value);  // nearest even
inline float bf16_to_float(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}
inline std::uint16_t float_to_bf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}
// cvt.rna.tf32.f32: 10 mantissa bits, ties away from zero.
inline std::uint32_t round_tf32(std::uint32_t bits) {
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}
inline float bits_to_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline std::uint32_t float_to_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float exp_approx(float x) { return __builtin_expf(x); }
inline float reciprocal_approx(float x) { return 1.f / x; }
inline float square_root(float x) { return __builtin_sqrtf(x); }
inline uint32_t keep(uint32_t value) { return value; }
template <class T>
inline T* further(T* pointer, int count, int bytes) {
  return reinterpret_cast<T*>(reinterpret_cast<std::intptr_t>(pointer) + static_cast<std::int64_t>(count) * bytes);
}
template <class T>
inline T* keep(T* pointer) {
  return pointer;
}
inline float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline std::uint32_t pack_f16x2(float low, float high) {
  return float_to_f16(low) | static_cast<std::uint32_t>(float_to_f16(high)) << 16;
}
inline std::uint32_t pack_bf16x2(float low, float high) {
  return float_to_bf16(low) | static_cast<std::uint32_t>(float_to_bf16(high)) << 16;
}
inline float max_nan(float a, float b) { return a != a || a > b ? a : b; }
inline float min_nan(float a, float b) { return a != a || a < b ? a : b; }
#define LIGHTOPS_PAIRWISE(type, operation)                                                            \
  inline std::uint32_t operation##_nan_##type##x2(std::uint32_t a, std::uint32_t b) {                 \
    return pack_##type##x2(operation##_nan(type##_to_float(a & 0xffff), type##_to_float(b & 0xffff)), \
                           operation##_nan(type##_to_float(a >> 16), type##_to_float(b >> 16)));      \
  }
LIGHTOPS_PAIRWISE(f16, max)
LIGHTOPS_PAIRWISE(f16, min)
LIGHTOPS_PAIRWISE(bf16, max)
LIGHTOPS_PAIRWISE(bf16, min)
#undef LIGHTOPS_PAIRWISE

// --- barriers and warp instructions ----------------------------------------------------------------------------------
inline void sync_threads(LIGHTOPS_SITE) { emulator::barrier(0, emulator::block_threads(), LIGHTOPS_AT); }
inline void named_barrier(int id, int threads, LIGHTOPS_SITE) { emulator::barrier(id, threads, LIGHTOPS_AT); }
inline void sync_warp(LIGHTOPS_SITE) { emulator::sync_warp_collective(LIGHTOPS_AT); }
float warp_shuffle_xor(float value, int mask, emulator::Site site);
inline float shuffle_xor(float value, int mask, LIGHTOPS_SITE) { return warp_shuffle_xor(value, mask, LIGHTOPS_AT); }
inline bool any_lane(bool condition, LIGHTOPS_SITE) {
  float any = condition ? 1.f : 0.f;
  for (int mask = 16; mask; mask /= 2) any += warp_shuffle_xor(any, mask, LIGHTOPS_AT);
  return any > 0.f;
}

void warp_ldmatrix_x4(std::uint32_t* r, const void* row, bool transposed, emulator::Site site);
inline void ldmatrix_x4(std::uint32_t (&r)[4], const void* row, LIGHTOPS_SITE) {
  warp_ldmatrix_x4(r, row, false, LIGHTOPS_AT);
}
inline void ldmatrix_x4_transposed(std::uint32_t (&r)[4], const void* row, LIGHTOPS_SITE) {
  warp_ldmatrix_x4(r, row, true, LIGHTOPS_AT);
}
enum MmaKind { kMmaF16, kMmaBf16, kMmaTf32 };
void warp_mma(MmaKind kind, float* d, const std::uint32_t* a, const std::uint32_t* b, emulator::Site site);
inline void mma_f16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t* b, LIGHTOPS_SITE) {
  warp_mma(kMmaF16, d, a, b, LIGHTOPS_AT);
}
inline void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t* b, LIGHTOPS_SITE) {
  warp_mma(kMmaBf16, d, a, b, LIGHTOPS_AT);
}
inline void mma_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t* b, LIGHTOPS_SITE) {
  warp_mma(kMmaTf32, d, a, b, LIGHTOPS_AT);
}

// --- global memory ---------------------------------------------------------------------------------------------------
template <class V>
inline V global_read(const void* address, bool on, emulator::Site site) {
  V value{};
  emulator::Region* region = on ? emulator::check_global(address, sizeof(V), false, false, site) : nullptr;
  emulator::count_global(address, on ? sizeof(V) : 0, false, region, site);
  if (region) std::memcpy(&value, address, sizeof(V));
  return value;
}
// Zero where `on` is false; the address is not touched then.
template <class V>
inline V load_global(const V* address, bool on = true, LIGHTOPS_SITE) {
  return global_read<V>(address, on, LIGHTOPS_AT);
}
inline Vec16 load_global16(const void* address, bool on = true, LIGHTOPS_SITE) {
  return global_read<Vec16>(address, on, LIGHTOPS_AT);
}
template <class V>
inline void store_global(V* address, V value, bool on = true, LIGHTOPS_SITE) {
  emulator::Region* region = on ? emulator::check_global(address, sizeof(V), true, false, LIGHTOPS_AT) : nullptr;
  emulator::count_global(address, on ? sizeof(V) : 0, true, region, LIGHTOPS_AT);
  if (region) std::memcpy(static_cast<void*>(address), &value, sizeof(V));
}
inline void store_global16(void* address, Vec16 value, bool on = true, LIGHTOPS_SITE) {
  store_global(static_cast<Vec16*>(address), value, on, file, line);
}
inline float atomic_add(float* address, float value, LIGHTOPS_SITE) {
  if (!emulator::check_global(address, 4, true, true, LIGHTOPS_AT)) return 0;
  const float old = *address;
  *address = old + value;
  return old;
}

inline int arrive(int* counter, LIGHTOPS_SITE) {
  if (!emulator::check_global(counter, 4, true, true, LIGHTOPS_AT)) return 0;
  emulator::arrive_at(counter);
  return (*counter)++;
}
inline Vec16 load_arrived16(const void* address, LIGHTOPS_SITE) {
  Vec16 value{};
  emulator::Region* region = emulator::check_global(address, 16, false, true, LIGHTOPS_AT);
  emulator::count_global(address, 16, false, region, LIGHTOPS_AT);
  if (!region) return value;
  emulator::check_arrived(*region, address, 16, LIGHTOPS_AT);
  std::memcpy(&value, address, 16);
  return value;
}

// --- shared memory ---------------------------------------------------------------------------------------------------
template <class V>
inline V load_shared(const void* address, LIGHTOPS_SITE) {
  V value{};
  emulator::count_shared(address, sizeof(V), false, LIGHTOPS_AT);
  if (emulator::check_shared(address, sizeof(V), false, LIGHTOPS_AT)) std::memcpy(&value, address, sizeof(V));
  return value;
}
template <class V>
inline void store_shared(void* address, V value, LIGHTOPS_SITE) {
  emulator::count_shared(address, sizeof(V), true, LIGHTOPS_AT);
  if (emulator::check_shared(address, sizeof(V), true, LIGHTOPS_AT)) std::memcpy(address, &value, sizeof(V));
}

// --- asynchronous copies: 16 bytes global to shared, zeros where `on` is false ----------------------------------------
inline void cp_async16(void* shared, const void* global, bool on, LIGHTOPS_SITE) {
  emulator::async_copy(shared, global, 16, !on, LIGHTOPS_AT);
}
inline void cp_async_commit() { emulator::async_commit(); }
template <int GroupsLeft>
inline void cp_async_wait() {
  emulator::async_wait(GroupsLeft);
}

// --- launch ----------------------------------------------------------------------------------------------------------
using Stream = void*;
inline int clear_memory(void* memory, std::size_t bytes, Stream) {
  std::memset(memory, 0, bytes);
  return 0;
}
template <auto kKernel, class Params>
inline int launch(unsigned gx, unsigned gy, unsigned gz, unsigned threads, unsigned shared, Stream,
                  const Params& params) {
  emulator::run_grid(
      __PRETTY_FUNCTION__, {gx, gy, gz}, threads, shared,
      [](void* context) { kKernel(*static_cast<const Params*>(context)); }, const_cast<Params*>(&params));
  return 0;
}

}  // namespace lightops::cuda
