// What the native self-test stands on: feature maps in double, guarded buffers in the kernel's type, a thread pool.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "lightops/common.h"
#include "lightops/pack.h"

namespace selftest {

using lightops::DType;
using lightops::Nhwc;

// Small whole numbers: every product and sum below is exact in float, so results are compared for equality.
struct Random {
  uint64_t state = 1;
  int64_t below(int64_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return int64_t((state >> 33) % uint64_t(n));
  }
  double whole(int64_t limit) { return double(below(2 * limit + 1) - limit); }
};

// A feature map [n, h, w, c] in double: what the plain reference works on.
struct Map {
  int64_t n = 0, h = 0, w = 0, c = 0;
  std::vector<double> values;

  Map() = default;
  Map(int64_t n_, int64_t h_, int64_t w_, int64_t c_) : n(n_), h(h_), w(w_), c(c_), values(size_t(n_ * h_ * w_ * c_)) {}
  double& at(int64_t i, int64_t y, int64_t x, int64_t k) { return values[size_t(((i * h + y) * w + x) * c + k)]; }
  double at(int64_t i, int64_t y, int64_t x, int64_t k) const { return const_cast<Map*>(this)->at(i, y, x, k); }
};

inline Map random_map(Random& random, int64_t n, int64_t h, int64_t w, int64_t c) {
  Map m(n, h, w, c);
  for (double& v : m.values) v = random.whole(3);
  return m;
}

inline std::vector<double> random_vector(Random& random, int64_t n, int64_t limit = 3) {
  std::vector<double> v(static_cast<size_t>(n));
  for (double& x : v) x = random.whole(limit);
  return v;
}

struct Bf16 {
  uint16_t bits = 0;
  Bf16() = default;
  explicit Bf16(double value) {
    const float f = float(value);
    uint32_t u;
    std::memcpy(&u, &f, 4);
    bits = std::isnan(f) ? 0x7fc0 : uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
  }
  explicit operator double() const {
    const uint32_t u = uint32_t(bits) << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return double(f);
  }
};

template <class T> struct TypeOf;
template <> struct TypeOf<float> {
  static constexpr DType value = DType::f32;
  using Weight = float;
};
template <> struct TypeOf<double> {
  static constexpr DType value = DType::f64;
  using Weight = double;
};
template <> struct TypeOf<Bf16> {
  static constexpr DType value = DType::bf16;
  using Weight = float;
};
// bfloat16 whose products read pairs: packed convolution weights hold a pair where those of Bf16 hold a float.
struct PairedBf16 : Bf16 { using Bf16::Bf16; };
template <> struct TypeOf<PairedBf16> : TypeOf<Bf16> {};
template <class T> constexpr bool kPairs = std::is_same<T, PairedBf16>::value;

// Memory of a kernel argument: a channel slice [first, first + c) of pixels `pixel` wide, with guards before and after.
// Whatever lies outside the slice must come back as it was.
template <class T> class Buffer {
 public:
  Buffer(const Map& m, int64_t pixel, int64_t first) : map_(m), pixel_(pixel), first_(first) {
    data_.assign(size_t(2 * kGuard + m.n * m.h * m.w * pixel), T(kSentinel));
  }
  static Buffer input(const Map& m, int64_t extra = 0) {
    Buffer b(m, m.c + extra, extra / 2);
    b.each([&](T& cell, double value) { cell = T(value); });
    return b;
  }
  // Poisoned: an element that the kernel leaves out shows as NaN.
  static Buffer output(int64_t n, int64_t h, int64_t w, int64_t c, int64_t extra = 0) {
    Buffer b(Map(n, h, w, c), c + extra, extra / 2);
    b.each([](T& cell, double) { cell = T(std::numeric_limits<double>::quiet_NaN()); });
    return b;
  }
  Nhwc view() {
    Nhwc v;
    v.data = data_.data() + kGuard + first_;
    v.n = map_.n, v.h = map_.h, v.w = map_.w, v.c = map_.c;
    v.pixel = pixel_, v.image = map_.h * map_.w * pixel_;
    return v;
  }
  Map read() {
    Map m = map_;
    size_t i = 0;
    each([&](T& cell, double) { m.values[i++] = double(cell); });
    return m;
  }
  bool outside_untouched() {
    std::vector<char> inside(data_.size());
    each([&](T& cell, double) { inside[size_t(&cell - data_.data())] = 1; });
    for (size_t i = 0; i < data_.size(); ++i)
      if (!inside[i] && double(data_[i]) != double(T(kSentinel))) return false;
    return true;
  }

 private:
  static constexpr int64_t kGuard = 64;
  static constexpr double kSentinel = -12288.0;  // exact in every type, out of reach of the test values

  template <class F> void each(F f) {
    for (int64_t p = 0; p < map_.n * map_.h * map_.w; ++p)
      for (int64_t k = 0; k < map_.c; ++k)
        f(data_[size_t(kGuard + p * pixel_ + first_ + k)], map_.values[size_t(p * map_.c + k)]);
  }

  Map map_;
  int64_t pixel_, first_;
  std::vector<T> data_;
};

// Convolution weights [o, i, kh, kw] in double, and their packed form.
struct Weights {
  int64_t o, i, kh, kw;
  std::vector<double> values;
  double at(int64_t a, int64_t b, int64_t y, int64_t x) const {
    return values[size_t(((a * i + b) * kh + y) * kw + x)];
  }
};

inline Weights random_weights(Random& random, int64_t o, int64_t i, int64_t kh = 1, int64_t kw = 1) {
  return {o, i, kh, kw, random_vector(random, o * i * kh * kw, 2)};
}

template <class T> std::vector<typename TypeOf<T>::Weight> cast(const std::vector<double>& v) {
  return {v.begin(), v.end()};
}

template <class T> DType weight_type() { return sizeof(typename TypeOf<T>::Weight) == 8 ? DType::f64 : DType::f32; }

template <class T>
std::vector<typename TypeOf<T>::Weight> pack(const Weights& w, lightops::Algo algo = lightops::Algo::direct) {
  lightops::PackConv2dParams p;
  p.weight = w.values.data();
  p.weight_type = DType::f64;
  p.out = w.o, p.in = w.i, p.kh = w.kh, p.kw = w.kw;
  p.stride[0] = w.i * w.kh * w.kw, p.stride[1] = w.kh * w.kw, p.stride[2] = w.kw, p.stride[3] = 1;
  p.algo = algo;
  p.packed_type = kPairs<T> ? DType::bf16 : weight_type<T>();
  const int64_t size = lightops::packed_numel(w.o, w.i, w.kh, w.kw, int(algo), kPairs<T>);
  std::vector<typename TypeOf<T>::Weight> packed(size_t(kPairs<T> ? size / 2 : size));
  p.packed = packed.data();
  lightops::pack_conv2d(p);
  return packed;
}

template <class T> std::vector<typename TypeOf<T>::Weight> pack_depthwise(const Weights& w) {
  lightops::PackDepthwiseParams p;
  p.weight = w.values.data();
  p.weight_type = DType::f64;
  p.channels = w.o, p.kh = w.kh, p.kw = w.kw;
  p.stride[0] = p.stride[1] = w.kh * w.kw, p.stride[2] = w.kw, p.stride[3] = 1;
  p.packed_type = weight_type<T>();
  std::vector<typename TypeOf<T>::Weight> packed(size_t(lightops::round_up(w.o, lightops::kGroup) * w.kh * w.kw));
  p.packed = packed.data();
  lightops::pack_depthwise(p);
  return packed;
}

// Tasks on `threads` threads of their own; more threads than cores on purpose, to shake the order of tasks.
inline void run_tasks(int64_t tasks, void (*body)(void*, int64_t), void* context) {
  std::atomic<int64_t> next{0};
  auto work = [&] {
    for (int64_t task; (task = next.fetch_add(1)) < tasks;) body(context, task);
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
}

inline lightops::Parallel parallel(int threads) {
  lightops::Parallel p;
  p.threads = threads;
  p.run = run_tasks;
  return p;
}

// Workspace as the binding would give it: 64-byte aligned, poisoned with NaN bytes, guarded behind.
template <class Params>
bool launch(Params& p, int64_t (*workspace)(const Params&), lightops::Status (*op)(const Params&)) {
  constexpr size_t kGuard = 64;
  const size_t bytes = size_t(workspace(p));
  const size_t whole = (bytes + 63) / 64 * 64 + kGuard;
  auto* memory = static_cast<unsigned char*>(std::aligned_alloc(64, whole));
  std::memset(memory, 0xff, whole);
  p.workspace = memory;
  bool good = op(p) == lightops::Status::ok;
  for (size_t i = bytes; i < whole; ++i) good = good && memory[i] == 0xff;
  std::free(memory);
  return good;
}

}  // namespace selftest
