#include "engine/depthwise_walk.h"

#include "engine/activation.h"
#include "engine/gate.h"
#include "engine/parallel.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

constexpr bool kWalks = kVecBytes == 64;  // AVX-512: 32 registers

// Pixels a power of two apart share few sets of L1: the rows of dy that a walk meets three times would not stay there. They
// are copied side by side first, this many vectors of channels together: 512 channels at 14 x 14, batch 8, two threads, 0.12
// ms instead of 0.16.
constexpr int64_t kStaged = 2, kRing = 4;  // rows of the copy, a power of two
constexpr int64_t kSets = 64, kWays = 12;
// At stride 2 memory is the bound, and lines so far apart that they share so few sets cost more than the blocks' sums do.
constexpr int64_t kMostShared = 4;

// The next vectors of channels of every pixel are brought into L2 while these are worked on: the lines of a walk are a
// pixel apart, which the hardware does not fetch ahead, and in a step u lies in memory. MobileNetV2's depthwise backward
// passes, batch 8, two threads: 10.4 ms of a step, 8.1 with u fetched, 7.6 with the place of dz too; the same when called
// alone, in L3.
LIGHTOPS_INLINE void fetch_ahead(const void* p) { __builtin_prefetch(p, 0, 2); }

// What a walk does beside the gradients; see depthwise_walk.
enum class Form { both, input, sums, apply };

template <class C> struct Walk {
  const C* dy[3];  // by kernel row: the row of dy that is met through it, at column 0
  int64_t dy_pixel;  // between its pixels
  const C* u;
  C* out;
  int64_t pixel, width;
  int64_t ahead;  // from the vector to the next of this walk
  const C* weights;  // [9][kGroup], of the vector
  C* sum;
  NormBackward<C> norm;  // from the vector on
  C *dz, *dz_x;
  bool stream;
};

// One row, one vector of channels. Rows: the kernel rows (bit ky) that meet a row of dy. What lies outside dy is left out at
// compile time: no value is multiplied by a padding zero.
template <class C, Form F, int Stride, int Rows> LIGHTOPS_INLINE void walk_row(const Walk<C>& w) {
  constexpr bool kWeights = F == Form::both || F == Form::sums, kNorm = F == Form::sums || F == Form::apply;
  constexpr int kColumns = Stride == 1 ? 3 : 2;
  const Clamp<C> clamp(w.norm.act);
  const Bounds<C> bounds(w.norm.act);
  Vec<C> weight[9], sum[9], d[3][kColumns], total = {}, total_x = {};
#pragma GCC unroll 9
  for (int k = 0; k < 9; ++k) {
    weight[k] = load(w.weights + k * kGroup);
    if (kWeights && (Rows >> k / 3 & 1)) sum[k] = load(w.sum + k * kGroup);
  }
  const Vec<C> scale = kNorm ? load(w.norm.scale) : Vec<C>{}, shift = kNorm ? load(w.norm.shift) : Vec<C>{};
  const Vec<C> mean = kNorm ? load(w.norm.mean) : Vec<C>{};
  const C* u = w.u;
  C* out = w.out;

  // The pixel meets column j of d through kernel column kx(j), for j in [first, last).
  const auto pixel = [&](auto kx, int first, int last) __attribute__((always_inline)) {
    const Vec<C> x = F != Form::input ? load(u) : Vec<C>{};
    if (F != Form::input) fetch_ahead(u + w.ahead);
    const Vec<C> z = kNorm ? (kWeights ? clamp(x * scale + shift) : x * scale + shift) : x;
    Vec<C> du[3] = {};  // by kernel row: three short chains instead of a long one
#pragma GCC unroll 3
    for (int ky = 0; ky < 3; ++ky) {
      if (!(Rows >> ky & 1)) continue;
#pragma GCC unroll 3
      for (int j = first; j < last; ++j) {
        const int k = ky * 3 + kx(j);
        du[ky] += d[ky][j] * weight[k];
        if (kWeights) sum[k] += d[ky][j] * z;
      }
    }
    constexpr int kFirst = Rows & 1 ? 0 : Rows & 2 ? 1 : 2;
    Vec<C> y = du[kFirst];
#pragma GCC unroll 2
    for (int ky = kFirst + 1; ky < 3; ++ky)
      if (Rows >> ky & 1) y += du[ky];
    if (kNorm) {
      const Vec<C> dz = bounds(z, y), off = x - mean;
      if (F == Form::sums) {
        total += dz;
        total_x += dz * off;
        y = dz;
      } else {
        y = dz * load(w.norm.a) + (off * load(w.norm.b) + load(w.norm.d));
      }
    }
    if (F != Form::sums || out) {
      if (F == Form::sums) fetch_ahead(out + w.ahead);
      if (kStreams && w.stream) stream(out, y);
      else store(out, y);
      out += w.pixel;
    }
    u += w.pixel;
  };
  int64_t at = 0;  // of the column of dy that is loaded next
  const auto next = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 3
    for (int ky = 0; ky < 3; ++ky) {
      if (!(Rows >> ky & 1)) continue;
#pragma GCC unroll 2
      for (int j = 1; j < kColumns; ++j) d[ky][j - 1] = d[ky][j];
      d[ky][kColumns - 1] = load(w.dy[ky] + at);
    }
    at += w.dy_pixel;
  };

#pragma GCC unroll 3
  for (int ky = 0; ky < 3; ++ky)
    for (int j = 0; j < kColumns; ++j) d[ky][j] = Vec<C>{};
  next();
  if (Stride == 1) {
    const auto kx = [](int j) { return 2 - j; };
    next();
    pixel(kx, 1, 3);
    for (int64_t x = 1; x + 1 < w.width; ++x) {
      next();
      pixel(kx, 0, 3);
    }
#pragma GCC unroll 3
    for (int ky = 0; ky < 3; ++ky) {
      d[ky][0] = d[ky][1];
      d[ky][1] = d[ky][2];
    }
    pixel(kx, 0, 2);
  } else {
    // Two pixels to a column: the even one meets it in the middle, the odd one has it on the left, the next on the right.
    const auto even = [](int) { return 1; };
    const auto odd = [](int j) { return j ? 0 : 2; };
    int64_t x = 0;
    for (; x + 2 < w.width; x += 2) {
      next();
      pixel(even, 0, 1);
      pixel(odd, 0, 2);
    }
#pragma GCC unroll 3
    for (int ky = 0; ky < 3; ++ky) d[ky][0] = d[ky][1];
    pixel(even, 0, 1);
    if (x + 1 < w.width) pixel(odd, 0, 1);
  }
#pragma GCC unroll 9
  for (int k = 0; k < 9; ++k)
    if (kWeights && (Rows >> k / 3 & 1)) store(w.sum + k * kGroup, sum[k]);
  if (F == Form::sums) {
    store(w.dz, load(w.dz) + total);
    store(w.dz_x, load(w.dz_x) + total_x);
  }
}

// Rows of dy by kernel row: bit ky of the result where row y of u meets one, row[ky].
template <class C> int meets(const DepthwiseGrad<C>& d, int64_t y, int64_t* row) {
  int found = 0;
  for (int ky = 0; ky < 3; ++ky) {
    const int64_t at = y + 1 - ky, stride = d.window.stride[0];
    if (at < 0 || at % stride || at / stride >= d.out_height) continue;
    row[ky] = at / stride;
    found |= 1 << ky;
  }
  return found;
}

template <class C, Form F, int Stride> LIGHTOPS_INLINE void walk_row(const Walk<C>& w, int rows) {
  if (Stride == 1) {
    if (rows == 7) walk_row<C, F, Stride, 7>(w);
    else if (rows == 3) walk_row<C, F, Stride, 3>(w);
    else if (rows == 6) walk_row<C, F, Stride, 6>(w);
    else walk_row<C, F, Stride, 2>(w);
  } else {
    if (rows == 2) walk_row<C, F, Stride, 2>(w);
    else if (rows == 5) walk_row<C, F, Stride, 5>(w);
    else walk_row<C, F, Stride, 4>(w);
  }
}

// How many neighbouring sets of L1 lie between two pixels, of those that pixels meet at all.
template <class C> int64_t shared_sets(const DepthwiseGrad<C>& d) {
  const int64_t lines = d.channels * int64_t(sizeof(C)) / kCacheLine, power = lines & -lines;
  return power == 0 || power > kSets ? kSets : power;
}

template <class C> bool staged(const DepthwiseGrad<C>& d) {
  const int64_t rows = d.window.stride[0] == 1 ? 3 : 2;
  return d.channels % (kStaged * kLanes<C>) == 0 && rows * d.out_width > kSets / shared_sets(d) * kWays;
}

template <class C, Form F, int Stride>
__attribute__((noinline)) void walk_chunk(const DepthwiseGrad<C>& d, const NormBackward<C>* norm, const C* dy,
                                          int64_t dy_first, int64_t y, int64_t rows, const C* u, C* out, C* sum,
                                          C* sums, C* scratch) {
  constexpr int64_t L = kLanes<C>;
  const int64_t dy_row = d.out_width * d.channels, row = d.width * d.channels, line = d.out_width * L;
  const bool stages = staged(d);
  const int64_t together = stages ? kStaged : 1;
  scratch += kApart / int64_t(sizeof(C));  // 0.12 ms at 512 channels, 14 x 14 on two cores, without it 0.18
  Walk<C> w{};
  w.pixel = d.channels;
  w.width = d.width;
  w.ahead = together * L;
  w.dy_pixel = stages ? L : d.channels;
  w.stream = d.far.stream;
  for (int64_t c = 0; c < d.channels; c += together * L) {
    int64_t loaded = -1;  // rows of dy up to this one are in the ring
    for (int64_t i = 0; i < rows; ++i) {
      int64_t met[3] = {};
      const int mask = meets(d, y + i, met);
      for (int ky = 2; ky >= 0 && stages; --ky) {
        if (!(mask >> ky & 1) || met[ky] <= loaded) continue;
        loaded = met[ky];
        const C* from = dy + (loaded - dy_first) * dy_row + c;
        C* const to = scratch + loaded % kRing * kStaged * line;
        for (int64_t x = 0; x < d.out_width; ++x)
#pragma GCC unroll 2
          for (int64_t v = 0; v < kStaged; ++v) store(to + v * line + x * L, load(from + x * d.channels + v * L));
      }
      for (int64_t v = 0; v < together; ++v) {
        const int64_t channel = c + v * L, group = channel / kGroup * 9 * kGroup + channel % kGroup;
        for (int ky = 0; ky < 3; ++ky)
          w.dy[ky] = stages ? scratch + (met[ky] % kRing * kStaged + v) * line
                            : dy + (mask >> ky & 1 ? met[ky] - dy_first : 0) * dy_row + channel;
        w.u = u + i * row + channel;
        w.out = out ? out + i * row + channel : nullptr;
        w.weights = d.weights + group;
        w.sum = sum ? sum + group : nullptr;
        if (norm) w.norm = norm->from(channel);
        w.dz = sums ? sums + channel : nullptr;
        w.dz_x = sums ? sums + d.channels + channel : nullptr;
        walk_row<C, F, Stride>(w, mask);
      }
    }
  }
}

}  // namespace

template <class C> bool depthwise_walks(const DepthwiseGrad<C>& d) {
  const Window& w = d.window;
  for (int axis = 0; axis < 2; ++axis)
    if (w.kernel[axis] != 3 || w.padding[axis] != 1 || w.dilation[axis] != 1) return false;
  if (!kWalks || w.stride[0] != w.stride[1] || d.width < 2 || d.channels % kLanes<C>) return false;
  return w.stride[0] == 1 || (w.stride[0] == 2 && shared_sets(d) <= kMostShared);
}

template <class C> int64_t depthwise_walk_scratch(const DepthwiseGrad<C>& d) {
  if (!depthwise_walks(d) || !staged(d)) return 0;
  return kRing * kStaged * d.out_width * kLanes<C> + 2 * kApart / int64_t(sizeof(C));
}

template <class C>
void depthwise_walk(const DepthwiseGrad<C>& d, const NormBackward<C>* norm, const C* dy, int64_t dy_first, int64_t y,
                    int64_t rows, const C* u, C* out, C* sum, C* sums, C* scratch) {
  const auto walk = [&](auto dense, auto strided) {
    (d.window.stride[0] == 1 ? dense : strided)(d, norm, dy, dy_first, y, rows, u, out, sum, sums, scratch);
  };
  if (norm && norm->a) walk(walk_chunk<C, Form::apply, 1>, walk_chunk<C, Form::apply, 2>);
  else if (norm) walk(walk_chunk<C, Form::sums, 1>, walk_chunk<C, Form::sums, 2>);
  else if (sum) walk(walk_chunk<C, Form::both, 1>, walk_chunk<C, Form::both, 2>);
  else walk(walk_chunk<C, Form::input, 1>, walk_chunk<C, Form::input, 2>);
}

#define LIGHTOPS_DEPTHWISE_WALK(C)                                                                             \
  template bool depthwise_walks<C>(const DepthwiseGrad<C>&);                                                   \
  template int64_t depthwise_walk_scratch<C>(const DepthwiseGrad<C>&);                                         \
  template void depthwise_walk<C>(const DepthwiseGrad<C>&, const NormBackward<C>*, const C*, int64_t, int64_t, \
                                  int64_t, const C*, C*, C*, C*, C*);
LIGHTOPS_DEPTHWISE_WALK(float)
LIGHTOPS_DEPTHWISE_WALK(double)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
