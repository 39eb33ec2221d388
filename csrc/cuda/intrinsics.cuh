// Every PTX instruction and every memory access of the kernels, wrapped once. Under LIGHTOPS_EMULATE the same names are
// the instrumented host versions of tests/emulator, so kernels must reach memory through nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef LIGHTOPS_EMULATE
#include "device.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define LIGHTOPS_KERNEL static __global__ void
#define LIGHTOPS_DEVICE __device__ __forceinline__
#define LIGHTOPS_LAUNCH_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
// Parameters stay in constant memory although loaders hold references to them: without it each thread copies them.
#define LIGHTOPS_PARAMS(Type) const __grid_constant__ Type

namespace lightops::cuda {

struct alignas(16) Vec16 { uint32_t w[4]; };
struct alignas(8) Vec8 { uint32_t w[2]; };
struct Word { uint32_t w[1]; };

LIGHTOPS_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
LIGHTOPS_DEVICE int block_x() { return static_cast<int>(blockIdx.x); }
LIGHTOPS_DEVICE int block_y() { return static_cast<int>(blockIdx.y); }
LIGHTOPS_DEVICE int block_z() { return static_cast<int>(blockIdx.z); }
LIGHTOPS_DEVICE unsigned char* shared_memory() {
  extern __shared__ __align__(128) unsigned char lightops_shared[];
  return lightops_shared;
}

// --- conversions -----------------------------------------------------------------------------------------------------
LIGHTOPS_DEVICE float f16_to_float(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
LIGHTOPS_DEVICE uint16_t float_to_f16(float value) { return __half_as_ushort(__float2half_rn(value)); }
LIGHTOPS_DEVICE float bf16_to_float(uint16_t bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }
LIGHTOPS_DEVICE uint16_t float_to_bf16(float value) { return __bfloat16_as_ushort(__float2bfloat16_rn(value)); }
LIGHTOPS_DEVICE uint32_t round_tf32(uint32_t bits) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
}
LIGHTOPS_DEVICE float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
LIGHTOPS_DEVICE uint32_t float_to_bits(float value) { return __float_as_uint(value); }
LIGHTOPS_DEVICE float exp_approx(float x) { return __expf(x); }
// Within one unit in the last place.
LIGHTOPS_DEVICE float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// Correctly rounded.
LIGHTOPS_DEVICE float square_root(float x) { return sqrtf(x); }
// The same value, in a register from here on: the compiler would rather compute it anew in every round of a loop.
LIGHTOPS_DEVICE uint32_t keep(uint32_t value) {
  asm volatile("" : "+r"(value));
  return value;
}
// `count` times `bytes` further on, by one instruction; left to itself the compiler may widen both factors first.
template <class T>
LIGHTOPS_DEVICE T* further(T* pointer, int count, int bytes) {
  T* result;
  asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(result) : "r"(count), "r"(bytes), "l"(pointer));
  return result;
}
template <class T>
LIGHTOPS_DEVICE T* keep(T* pointer) {
  asm volatile("" : "+l"(pointer));
  return pointer;
}
LIGHTOPS_DEVICE float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
// Two values to one register and back: one instruction a pair.
LIGHTOPS_DEVICE uint32_t pack_f16x2(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
LIGHTOPS_DEVICE uint32_t pack_bf16x2(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
// NaN wins, unlike fmaxf and fminf.
LIGHTOPS_DEVICE float max_nan(float a, float b) {
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
  return larger;
}
LIGHTOPS_DEVICE float min_nan(float a, float b) {
  float smaller;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(smaller) : "f"(a), "f"(b));
  return smaller;
}
#define LIGHTOPS_PAIRWISE(name, instruction)                         \
  LIGHTOPS_DEVICE uint32_t name(uint32_t a, uint32_t b) {            \
    uint32_t result;                                                 \
    asm(instruction " %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b)); \
    return result;                                                   \
  }
LIGHTOPS_PAIRWISE(max_nan_f16x2, "max.NaN.f16x2")
LIGHTOPS_PAIRWISE(min_nan_f16x2, "min.NaN.f16x2")
LIGHTOPS_PAIRWISE(max_nan_bf16x2, "max.NaN.bf16x2")
LIGHTOPS_PAIRWISE(min_nan_bf16x2, "min.NaN.bf16x2")
#undef LIGHTOPS_PAIRWISE

// --- barriers and warp instructions ----------------------------------------------------------------------------------
LIGHTOPS_DEVICE void sync_threads() { __syncthreads(); }
LIGHTOPS_DEVICE void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
LIGHTOPS_DEVICE void sync_warp() { __syncwarp(); }
// Whether the condition holds in any lane of the warp.
LIGHTOPS_DEVICE bool any_lane(bool condition) { return __any_sync(0xffffffffu, condition); }
LIGHTOPS_DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

LIGHTOPS_DEVICE uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Four 8x8 matrices of 16-bit elements; lanes 8i..8i+7 give the rows of matrix i.
LIGHTOPS_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
// The same four matrices, each transposed.
LIGHTOPS_DEVICE void ldmatrix_x4_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
LIGHTOPS_DEVICE void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
LIGHTOPS_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
LIGHTOPS_DEVICE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// --- global memory ---------------------------------------------------------------------------------------------------
// Zero where `on` is false; the address is not touched then.
template <class V>
LIGHTOPS_DEVICE V load_global(const V* address, bool on = true) {
  return on ? *address : V{};
}
LIGHTOPS_DEVICE Vec16 load_global16(const void* address, bool on = true) {
  Vec16 v{};
  if (on) {
    const uint4 raw = *static_cast<const uint4*>(address);
    v = Vec16{{raw.x, raw.y, raw.z, raw.w}};
  }
  return v;
}
template <class V>
LIGHTOPS_DEVICE void store_global(V* address, V value, bool on = true) {
  if (on) *address = value;
}
LIGHTOPS_DEVICE void store_global16(void* address, Vec16 v, bool on = true) {
  if (on) *static_cast<uint4*>(address) = make_uint4(v.w[0], v.w[1], v.w[2], v.w[3]);
}
LIGHTOPS_DEVICE float atomic_add(float* address, float value) { return atomicAdd(address, value); }
// Counts the block at `counter` and returns how many were there before. What the block's threads wrote before their last barrier is
// seen, by load_arrived16, by a block that arrives later, behind its next barrier. One thread of a block calls it.
LIGHTOPS_DEVICE int arrive(int* counter) {
  __threadfence();
  const int before = atomicAdd(counter, 1);
  __threadfence();
  return before;
}
// What other blocks of the launch wrote: past L1, which may hold older lines.
LIGHTOPS_DEVICE Vec16 load_arrived16(const void* address) {
  const uint4 raw = __ldcg(static_cast<const uint4*>(address));
  return Vec16{{raw.x, raw.y, raw.z, raw.w}};
}

// --- shared memory ---------------------------------------------------------------------------------------------------
template <class V>
LIGHTOPS_DEVICE V load_shared(const void* address) {
  if constexpr (sizeof(V) == 16) {
    const uint4 raw = *static_cast<const uint4*>(address);
    return V{{raw.x, raw.y, raw.z, raw.w}};
  } else if constexpr (sizeof(V) == 8) {
    const uint2 raw = *static_cast<const uint2*>(address);
    V value;
    memcpy(&value, &raw, 8);
    return value;
  } else {
    return *static_cast<const V*>(address);
  }
}
template <class V>
LIGHTOPS_DEVICE void store_shared(void* address, V value) {
  if constexpr (sizeof(V) == 16)
    *static_cast<uint4*>(address) = make_uint4(value.w[0], value.w[1], value.w[2], value.w[3]);
  else if constexpr (sizeof(V) == 8) *static_cast<uint2*>(address) = *reinterpret_cast<const uint2*>(&value);
  else *static_cast<V*>(address) = value;
}

// --- asynchronous copies: 16 bytes global to shared past L1, zeros where `on` is false --------------------------------
LIGHTOPS_DEVICE void cp_async16(void* shared, const void* global, bool on) {
  const int bytes = on ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
               : "memory");
}
LIGHTOPS_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int GroupsLeft>
LIGHTOPS_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(GroupsLeft) : "memory");
}

// --- launch ----------------------------------------------------------------------------------------------------------
using Stream = cudaStream_t;
inline int clear_memory(void* memory, std::size_t bytes, Stream stream) {
  return static_cast<int>(cudaMemsetAsync(memory, 0, bytes, stream));
}
// Returns a cudaError_t as int. The opt-in for more than 48 KiB of shared memory is a property of the function, allowed
// while a graph is captured, and costs no synchronisation.
template <auto kKernel, class Params>
inline int launch(unsigned gx, unsigned gy, unsigned gz, unsigned threads, unsigned shared, Stream stream,
                  const Params& params) {
  if (shared > 48 * 1024) {
    const cudaError_t error =
        cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return static_cast<int>(error);
  }
  // clang-format off: it takes the launch for templates
  kKernel<<<dim3(gx, gy, gz), threads, shared, stream>>>(params);
  // clang-format on
  return static_cast<int>(cudaGetLastError());
}

}  // namespace lightops::cuda
#endif
