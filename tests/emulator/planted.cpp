// Kernels with one planted fault each, and the same kernels done right: what test_faults.py holds the emulator to.
#include <cstring>
#include <string>

#include "device.h"

namespace {

using namespace lightops::cuda;

struct Memory {
  float* in;    // 256 floats, read-only
  float* out;   // 256 floats, writable
};

float* shared_floats() { return reinterpret_cast<float*>(shared_memory()); }
int t() { return thread_index(); }

void copy_right(Memory m) { store_global(m.out + t(), load_global(m.in + t())); }
void read_past_end(Memory m) { store_global(m.out + t(), load_global(m.in + t() + 193)); }
void read_before_start(Memory m) { store_global(m.out + t(), load_global(m.in + t() - 1)); }
void write_past_end(Memory m) { store_global(m.out + 193 + t(), 1.f); }
void misaligned_global(Memory m) { store_global(m.out + t(), bits_to_float(load_global16(m.in + 1, t() == 0).w[0])); }
void write_to_input(Memory m) { store_global(m.in + t(), 1.f); }
void two_blocks_write(Memory m) { store_global(m.out + t(), static_cast<float>(block_x())); }
void read_beside_write(Memory m) {
  if (block_x() == 0) store_global(m.out + t(), 1.f);
  if (block_x() == 1) load_global(m.out + t());
}
void atomics_right(Memory m) { atomic_add(m.out, 1.f); }
// Each of two blocks leaves 256 bytes; the one that arrives last reads both.
void leave(Memory m, float value) { store_global(m.out + 64 * block_x() + t(), value); }
void read_if_last(Memory m, bool last) {
  if (last) load_arrived16(m.out + t() % 32 * 4);
}
bool arrive_last(Memory m) {
  sync_threads();
  if (t() == 0) store_shared(shared_memory(), arrive(reinterpret_cast<int*>(m.out + 200)));
  sync_threads();
  return load_shared<int>(shared_memory()) == 1;
}
void arrivals_right(Memory m) {
  leave(m, 1.f);
  read_if_last(m, arrive_last(m));
}
void read_without_arriving(Memory m) {
  leave(m, 1.f);
  read_if_last(m, block_x() == 1);
}
void write_after_arriving(Memory m) {
  const bool last = arrive_last(m);
  leave(m, 1.f);
  read_if_last(m, last);
}
void arrive_before_the_others(Memory m) {
  if (t() == 0) arrive(reinterpret_cast<int*>(m.out + 200));
  leave(m, 1.f);
  sync_threads();
  read_if_last(m, block_x() == 1);
}

void shared_right(Memory m) {
  store_shared(shared_floats() + t(), load_global(m.in + t()));
  sync_threads();
  store_global(m.out + t(), load_shared<float>(shared_floats() + (t() + 33) % 64));
}
void shared_past_end(Memory) { store_shared(shared_floats() + 192 + t() + 1, 1.f); }
void misaligned_shared(Memory) {
  store_shared(shared_floats() + t(), 1.f);
  sync_threads();
  load_shared<Vec16>(shared_floats() + 1);
}
void uninitialised(Memory m) {
  store_shared(shared_floats() + t(), 1.f);
  sync_threads();
  store_global(m.out + t(), load_shared<float>(shared_floats() + t() + 1));
}
void read_after_write_race(Memory m) {
  store_shared(shared_floats() + t(), 1.f);
  store_global(m.out + t(), load_shared<float>(shared_floats() + (t() + 32) % 64));
}
void write_after_read_race(Memory m) {
  store_shared(shared_floats() + t(), 1.f);
  sync_threads();
  store_global(m.out + t(), load_shared<float>(shared_floats() + (t() + 32) % 64));
  store_shared(shared_floats() + t(), 2.f);
}
void write_after_write_race(Memory) { store_shared(shared_floats() + t() % 32, 1.f); }
void race_within_a_warp(Memory m) {
  store_shared(shared_floats() + t(), 1.f);
  store_global(m.out + t(), load_shared<float>(shared_floats() + (t() ^ 1)));
}
void warp_sync_right(Memory m) {
  store_shared(shared_floats() + t(), 1.f);
  sync_warp();
  store_global(m.out + t(), load_shared<float>(shared_floats() + (t() ^ 1)));
}
// A shuffle makes lanes meet, but promises no order of their memory accesses.
void shuffle_is_no_barrier(Memory m) {
  store_shared(shared_floats() + t(), 1.f);
  shuffle_xor(1.f, 1);
  store_global(m.out + t(), load_shared<float>(shared_floats() + (t() ^ 1)));
}
// Four warps; warps 0 and 1 meet at barrier 1, warps 2 and 3 at barrier 2.
void named_barriers_right(Memory m) {
  store_shared(shared_floats() + t(), 1.f);
  named_barrier(1 + t() / 64, 64);
  store_global(m.out + t(), load_shared<float>(shared_floats() + (t() ^ 32)));
}
void named_barrier_of_the_others(Memory m) {
  store_shared(shared_floats() + t(), 1.f);
  named_barrier(1 + t() / 64, 64);
  store_global(m.out + t(), load_shared<float>(shared_floats() + (t() ^ 64)));
}

void async_right(Memory m) {
  if (t() < 16) cp_async16(shared_floats() + t() * 4, m.in + t() * 4, true);
  cp_async_commit();
  cp_async_wait<0>();
  sync_threads();
  store_global(m.out + t(), load_shared<float>(shared_floats() + t()));
}
void async_no_wait(Memory m) {
  if (t() < 16) cp_async16(shared_floats() + t() * 4, m.in + t() * 4, true);
  cp_async_commit();
  sync_threads();
  store_global(m.out + t(), load_shared<float>(shared_floats() + t()));
}
void async_waits_for_older_only(Memory m) {
  if (t() < 16) cp_async16(shared_floats() + t() * 4, m.in + t() * 4, true);
  cp_async_commit();
  cp_async_wait<1>();
  sync_threads();
  store_global(m.out + t(), load_shared<float>(shared_floats() + t()));
}
void async_no_barrier(Memory m) {
  if (t() < 16) cp_async16(shared_floats() + t() * 4, m.in + t() * 4, true);
  cp_async_commit();
  cp_async_wait<0>();
  store_global(m.out + t(), load_shared<float>(shared_floats() + t()));
}
void async_over_readers(Memory m) {
  store_shared(shared_floats() + t(), 1.f);
  sync_threads();
  store_global(m.out + t(), load_shared<float>(shared_floats() + t()));
  if (t() < 16) cp_async16(shared_floats() + (15 - t()) * 4, m.in + t() * 4, true);
  cp_async_commit();
  cp_async_wait<0>();
}

void barrier_in_a_branch(Memory) {
  if (t() < 32) sync_threads();
}
void barrier_after_exit(Memory) {
  if (t() == 5) return;
  sync_threads();
}
void two_barrier_lines(Memory) {
  if (t() < 32) sync_threads();
  else sync_threads();
}
void shuffle_in_a_branch(Memory) {
  if (t() % 2) shuffle_xor(1.f, 1);
}
void mixed_collectives(Memory) {
  if (t() % 2) shuffle_xor(1.f, 1);
  else sync_warp();
}

void strided(Memory m) { store_global(m.out + t(), load_global(m.in + t() % 32 * 8)); }
void bank_conflict(Memory) {
  store_shared(shared_floats() + t() % 32 * 8, static_cast<float>(t()), "planted", t() / 32);
}

struct Planted {
  const char* name;
  void (*kernel)(Memory);
  unsigned blocks, threads;
};

template <void (*kKernel)(Memory)>
constexpr Planted planted(const char* name, unsigned blocks = 1, unsigned threads = 64) {
  return {name, [](Memory m) { kKernel(m); }, blocks, threads};
}

#define PLANTED(f, ...) planted<f>(#f, ##__VA_ARGS__)
const Planted kPlanted[] = {PLANTED(copy_right),
                            PLANTED(read_past_end),
                            PLANTED(read_before_start),
                            PLANTED(write_past_end),
                            PLANTED(misaligned_global),
                            PLANTED(write_to_input),
                            PLANTED(two_blocks_write, 2),
                            PLANTED(read_beside_write, 2),
                            PLANTED(atomics_right, 2),
                            PLANTED(arrivals_right, 2),
                            PLANTED(read_without_arriving, 2),
                            PLANTED(write_after_arriving, 2),
                            PLANTED(arrive_before_the_others, 2),
                            PLANTED(shared_right),
                            PLANTED(shared_past_end),
                            PLANTED(misaligned_shared),
                            PLANTED(uninitialised),
                            PLANTED(read_after_write_race),
                            PLANTED(write_after_read_race),
                            PLANTED(write_after_write_race),
                            PLANTED(race_within_a_warp),
                            PLANTED(warp_sync_right),
                            PLANTED(shuffle_is_no_barrier),
                            PLANTED(named_barriers_right, 1, 128),
                            PLANTED(named_barrier_of_the_others, 1, 128),
                            PLANTED(async_right),
                            PLANTED(async_no_wait),
                            PLANTED(async_waits_for_older_only),
                            PLANTED(async_no_barrier),
                            PLANTED(async_over_readers),
                            PLANTED(barrier_in_a_branch),
                            PLANTED(barrier_after_exit),
                            PLANTED(two_barrier_lines),
                            PLANTED(shuffle_in_a_branch),
                            PLANTED(mixed_collectives),
                            PLANTED(strided, 1, 32),
                            PLANTED(bank_conflict, 1, 32)};

// --- instructions against plain loops --------------------------------------------------------------------------------
struct Operands {
  int kind;
  const void* a;  // [16][32 bytes]
  const void* b;  // [8][32 bytes]: column n, k innermost; 256 bytes in any case
  float* d;       // [16][8], read and written
};

// Fragments by ldmatrix, as the kernels load them. Kind 1: fp16, 2: bf16, 3: tf32; 4 and 5: fp16 and bf16 whose a is [16 k][16]
// and b [16 k][8], transposed on the way.
void multiply(Operands o) {
  const int lane = t();
  unsigned char* const s = shared_memory();
  for (int i = lane; i < 32; i += 32) store_shared(s + i * 16, load_global16(static_cast<const char*>(o.a) + i * 16));
  if (lane < 16) store_shared(s + 512 + lane * 16, load_global16(static_cast<const char*>(o.b) + lane * 16));
  if (lane >= 16) store_shared(s + 512 + lane * 16, Vec16{});
  sync_threads();
  std::uint32_t a[4], b[4];
  if (o.kind > 3) {
    ldmatrix_x4_transposed(a, s + (lane / 16 * 8 + lane % 8) * 32 + lane / 8 % 2 * 16);
    ldmatrix_x4_transposed(b, s + 512 + lane % 16 * 16);
  } else {
    ldmatrix_x4(a, s + lane % 16 * 32 + lane / 16 * 16);
    ldmatrix_x4(b, s + 512 + (lane % 8 + lane / 16 * 8) * 32 + lane / 8 % 2 * 16);
  }
  float d[4];
  for (int i = 0; i < 4; ++i) d[i] = load_global(o.d + (lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2);
  if (o.kind == 1 || o.kind == 4) mma_f16(d, a, b);
  if (o.kind == 2 || o.kind == 5) mma_bf16(d, a, b);
  if (o.kind == 3) mma_tf32(d, a, b);
  for (int i = 0; i < 4; ++i) store_global(o.d + (lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2, d[i]);
}

std::string text;

}  // namespace

extern "C" {

// Runs a planted kernel and returns the faults; "?" for an unknown name.
const char* planted_run(const char* name, int counting) {
  // Apart from each other, so that a step outside one is not a step into the other.
  alignas(128) static float store[1024];
  float *const in = store + 128, *const out = store + 640;
  emulator::clear_faults();
  emulator::clear_regions();
  emulator::clear_counters();
  emulator::set_counting(counting != 0);
  emulator::add_region(in, 1024, false, "in");
  emulator::add_region(out, 1024, true, "out");
  std::memset(store, 0, sizeof store);
  for (const Planted& p : kPlanted)
    if (std::strcmp(p.name, name) == 0) {
      const Memory memory{in, out};
      struct Call {
        const Planted* planted;
        const Memory* memory;
      } call{&p, &memory};
      emulator::run_grid(
          p.name, {p.blocks, 1, 1}, p.threads, 1024,
          [](void* c) { static_cast<Call*>(c)->planted->kernel(*static_cast<Call*>(c)->memory); }, &call);
      text = emulator::faults_json();
      return text.c_str();
    }
  return "?";
}

const char* planted_names() {
  text.clear();
  for (const Planted& p : kPlanted) text += std::string(p.name) + " ";
  return text.c_str();
}

const char* planted_counters() {
  text = emulator::counters_json();
  return text.c_str();
}

const char* planted_multiply(int kind, const void* a, const void* b, float* d) {
  emulator::clear_faults();
  emulator::clear_regions();
  emulator::set_counting(false);
  emulator::add_region(a, 512, false, "a");
  emulator::add_region(b, 256, false, "b");
  emulator::add_region(d, 512, true, "d");
  const Operands operands{kind, a, b, d};
  launch<multiply>(1, 1, 1, 32, 1024, nullptr, operands);
  text = emulator::faults_json();
  return text.c_str();
}

float convert_f16(float value) { return f16_to_float(float_to_f16(value)); }
float convert_bf16(float value) { return bf16_to_float(float_to_bf16(value)); }
float convert_tf32(float value) { return bits_to_float(round_tf32(float_to_bits(value))); }
}
