#include "lightops/training/dropout_noise.h"

#include "engine/entry.h"
#include "engine/storage.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

constexpr int64_t kWords = 624, kReach = 397;

// torch.Generator.get_state() of a CPU generator begins so. `left` is one more than the words not handed out yet.
struct Saved {
  uint64_t seed;
  int32_t left, seeded;
  uint64_t next;
  uint64_t words[kWords];
};

LIGHTOPS_INLINE uint32_t twist(uint32_t u, uint32_t v) {
  const uint32_t mixed = (u & 0x80000000u) | (v & 0x7fffffffu);
  return (mixed >> 1) ^ ((v & 1u) ? 0x9908b0dfu : 0u);
}

// The next 624 words. Each depends on words 1 and 397 places on (around), so that vectors of up to 227 go at once.
void next_words(uint32_t* words) {
  int64_t i = 0;
  for (; i < kWords - kReach; ++i) words[i] = words[i + kReach] ^ twist(words[i], words[i + 1]);
#if defined(__clang__)
#pragma clang loop vectorize(assume_safety)
#else
#pragma GCC ivdep
#endif
  for (; i < kWords - 1; ++i) words[i] = words[i - (kWords - kReach)] ^ twist(words[i], words[i + 1]);
  words[i] = words[i - (kWords - kReach)] ^ twist(words[i], words[0]);
}

void temper(const uint32_t* words, int64_t count, uint32_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    uint32_t y = words[i];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    out[i] = y ^ (y >> 18);
  }
}

template <class C> struct Body {
  const DropoutNoiseParams& p;

  explicit Body(const DropoutNoiseParams& params) : p(params) {}
  int64_t workspace() const { return 0; }

  // The first draw of a number holds its high bits. u < keep as integers: both times 2^53 are exact.
  template <class T> void write(const uint32_t* draws, int64_t count, uint64_t below, T* out) const {
    T kept;
    set_value(&kept, C(p.value));
    const T dropped = T();
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t number = (uint64_t(draws[2 * i] & 0x1fffffu) << 32) | draws[2 * i + 1];
      out[i] = number < below ? kept : dropped;
    }
  }

  void run() const {
    Saved saved;
    memcpy(&saved, p.state, sizeof saved);
    uint32_t words[kWords], draws[kWords + 1];
    for (int64_t i = 0; i < kWords; ++i) words[i] = uint32_t(saved.words[i]);
    int64_t unused = saved.left - 1, next = int64_t(saved.next), waiting = 0;  // `waiting`: the first half of a number
    const double scaled = p.keep * 9007199254740992.0;
    uint64_t below = uint64_t(scaled);
    if (double(below) < scaled) ++below;
    Storage<C>::with(p.type, [&](auto* out) {
      out = static_cast<decltype(out)>(p.out);
      for (int64_t done = 0; done < p.count;) {
        if (unused == 0) {
          next_words(words);
          next = 0;
          unused = kWords;
        }
        const int64_t missing = 2 * (p.count - done) - waiting, count = unused < missing ? unused : missing;
        temper(words + next, count, draws + waiting);
        next += count;
        unused -= count;
        const int64_t numbers = (waiting + count) / 2;
        write(draws, numbers, below, out + done);
        done += numbers;
        draws[0] = draws[2 * numbers];
        waiting = (waiting + count) % 2;
      }
    });
    for (int64_t i = 0; i < kWords; ++i) saved.words[i] = words[i];
    saved.left = int32_t(unused + 1);
    saved.next = uint64_t(next);
    memcpy(p.state, &saved, sizeof saved);
  }
};

}  // namespace

LIGHTOPS_CPU_OP(dropout_noise, DropoutNoiseParams)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
