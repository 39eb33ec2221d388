#include "engine/depthwise_grad.h"

#include "engine/activation.h"
#include "engine/gate.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// Channels worked on along a whole row before the next ones: what a block reads and its sums stay in L1.
constexpr int64_t kChannelBytes = 512;
// Rows of dy that the blocks take together, and taps that `gather` does.
constexpr int64_t kMostRows = 8, kMostTaps = 64;
// Pixels side by side, with their gradients in registers. 7 divides the maps of the light networks.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kWide = 7;
#else
constexpr int kWide = 4;
#endif
constexpr int kNarrow = 4;

// What a block does beside the gradients.
enum class GradForm {
  plain,  // nothing: u and du are read and written
  sums,   // u = act(norm(x)); du becomes dz, which is summed up, and written where it is wanted
  apply,  // du becomes dx
};

// A row of dy that row y of u meets, and the first weight of the kernel row that it does so through.
template <class C> struct Meeting {
  const C* dy = nullptr;
  int64_t weight = 0;
};

template <class C> struct Meetings {
  Meeting<C> row[kMostRows];
  int64_t count = 0;
};

// The address of pixel j: multiples of the pixel from four registers, as x86 addresses them.
struct Pitch {
  int64_t one, three, five, seven;  // bytes

  explicit Pitch(int64_t bytes) : one(bytes), three(3 * bytes), five(5 * bytes), seven(7 * bytes) {}
  LIGHTOPS_INLINE void hold() {
    hold_integer(one);
    hold_integer(three);
    hold_integer(five);
    hold_integer(seven);
  }
  LIGHTOPS_INLINE int64_t times(int j) const { return j < 0 ? -ahead(-j) : ahead(j); }
  LIGHTOPS_INLINE int64_t ahead(int j) const {
    return j == 3    ? three
           : j == 5  ? five
           : j == 6  ? 2 * three
           : j == 7  ? seven
           : j == 9  ? seven + 2 * one
           : j == 10 ? 2 * five
           : j == 11 ? seven + 4 * one
           : j == 12 ? 4 * three
                     : j * one;
  }
};
template <class C> LIGHTOPS_INLINE const C* move(const C* p, int64_t bytes) {
  return reinterpret_cast<const C*>(reinterpret_cast<const char*>(p) + bytes);
}
template <class C> LIGHTOPS_INLINE C* move(C* p, int64_t bytes) {
  return reinterpret_cast<C*>(reinterpret_cast<char*>(p) + bytes);
}

// What the next row will want, into L2: side by side, the pixels of a block are too many streams for the hardware to follow
// (128 channels at 56 x 56, batch 8: 1.47 ms without, 1.10 with).
template <class C> LIGHTOPS_INLINE void fetch_ahead(const C* p) { __builtin_prefetch(p, 0, 2); }

// What a block works on: pixels of a row, a run of whole vectors of channels.
template <class C> struct Run {
  const Meeting<C>* rows;
  int64_t count;          // of rows
  int64_t offset;         // of column 0 of the block in each row of dy
  int64_t first, last;    // columns of the block that lie inside dy
  int64_t pixel;          // between pixels
  Far far;
  int64_t row, dy_row;    // between rows of u and du, and of dy
  const C* weights;
  int64_t group;          // between groups of packed channels
  int64_t channels;
  const C* u;
  C* du;
  C* sum;
  NormBackward<C> norm;   // from the run's first channel on, where u is the raw x
  C *dz, *dz_x;           // sums
};

constexpr int floor_div(int a, int b) { return (a >= 0 ? a : a - b + 1) / b; }

// Columns pixels from x on, K columns of the kernel. Pixel i meets column j of dy through tap k where
// Phase + i - k = Stride * j; column 0 is (x + padding) / Stride and Phase the remainder. Edge: columns outside
// [first, last) are left out. A row of a 3x3 kernel takes 9 loads of dy, 3 of weights, 3 loads and stores of sums for 42
// multiply-adds.
template <class C, int K, int Stride, int Phase, int Columns, bool Edge, bool W, GradForm F>
__attribute__((noinline)) void block(const Run<C>& run) {
  constexpr bool kNorm = F != GradForm::plain;
  constexpr int L = kLanes<C>, kFirst = -floor_div(K - 1 - Phase, Stride), kLast = (Phase + Columns - 1) / Stride;
  const Run<C> r = run;
  Pitch pitch(r.pixel * int64_t(sizeof(C)));
  const Clamp<C> clamp(r.norm.act);
  const Bounds<C> bounds(r.norm.act);
  for (int64_t c = 0; c < r.channels; c += L) {
    pitch.hold();
    const int64_t group = c / kGroup * r.group + c % kGroup;
    Vec<C> u[Columns], du[Columns];
#pragma GCC unroll 7
    for (int i = 0; i < Columns; ++i) {
      if (W) {
        u[i] = load(move(r.u + c, pitch.times(i)));
        if (kNorm) u[i] = clamp(u[i] * load(r.norm.scale + c) + load(r.norm.shift + c));
        hold_vector(u[i]);
      }
      if ((W || kNorm) && r.far.u) fetch_ahead(move(r.u + r.row + c, pitch.times(i)));
      if (r.far.du) fetch_ahead(move(r.du + r.row + c, pitch.times(i)));
      if (r.far.dy && i % Stride == 0)
        fetch_ahead(move(r.rows[0].dy + r.dy_row + r.offset + c, pitch.times(i / Stride)));
      du[i] = Vec<C>{};
    }
    for (int64_t y = 0; y < r.count; ++y) {
      const C* dy = r.rows[y].dy + r.offset + kFirst * r.pixel + c;
      const C* weights = r.weights + group + r.rows[y].weight;
      C* sums = W ? r.sum + group + r.rows[y].weight : nullptr;
      Vec<C> weight[K], sum[K];
#pragma GCC unroll 7
      for (int k = 0; k < K; ++k) {
        weight[k] = load(weights + k * kGroup);
        if (W) sum[k] = load(sums + k * kGroup);
      }
#pragma GCC unroll 13
      for (int j = kFirst; j <= kLast; ++j) {
        if (Edge && (j < r.first || j >= r.last)) continue;
        Vec<C> v = load(move(dy, pitch.times(j - kFirst)));
        hold_vector(v);
#pragma GCC unroll 7
        for (int i = 0; i < Columns; ++i) {
          const int k = Phase + i - Stride * j;
          if (k < 0 || k >= K) continue;
          du[i] += v * weight[k];
          if (W) sum[k] += v * u[i];
        }
      }
#pragma GCC unroll 7
      for (int k = 0; k < K; ++k)
        if (W) store(sums + k * kGroup, sum[k]);
    }
    if (kNorm) {
      // u lies on the same side of the bounds as z does.
      const Vec<C> mean = load(r.norm.mean + c);
      Vec<C> total = {}, total_x = {};
#pragma GCC unroll 7
      for (int i = 0; i < Columns; ++i) {
        const Vec<C> x = load(move(r.u + c, pitch.times(i))), off = x - mean;
        const Vec<C> z = W ? u[i] : x * load(r.norm.scale + c) + load(r.norm.shift + c);
        const Vec<C> dz = bounds(z, du[i]);
        if (F == GradForm::sums) {
          total += dz;
          total_x += dz * off;
          du[i] = dz;
        } else {
          du[i] = dz * load(r.norm.a + c) + (off * load(r.norm.b + c) + load(r.norm.d + c));
        }
      }
      if (F == GradForm::sums) {
        store(r.dz + c, load(r.dz + c) + total);
        store(r.dz_x + c, load(r.dz_x + c) + total_x);
        if (!r.du) continue;
      }
    }
#pragma GCC unroll 7
    for (int i = 0; i < Columns; ++i) {
      C* const to = move(r.du + c, pitch.times(i));
      if (kStreams && r.far.stream) stream(to, du[i]);
      else store(to, du[i]);
    }
  }
}

template <class C> struct Tap {
  const C* dy;
  int64_t weight;
};

// One pixel, any taps, any channel count. `more`: du goes on from what earlier taps made of it.
template <class C>
void gather(const Tap<C>* taps, int64_t count, bool more, const Run<C>& r) {
  for (int64_t c = 0; c < r.channels; c += kLanes<C>) {
    const int64_t left = r.channels - c, group = c / kGroup * r.group + c % kGroup;
    Vec<C> du = more ? load_upto(r.du + c, left) : Vec<C>{};
    const Vec<C> u = r.sum ? load_upto(r.u + c, left) : Vec<C>{};
    for (int64_t t = 0; t < count; ++t) {
      const Vec<C> v = load_upto(taps[t].dy + c, left);
      du += v * load(r.weights + group + taps[t].weight);
      if (r.sum) {
        C* sum = r.sum + group + taps[t].weight;
        store(sum, load(sum) + v * u);
      }
    }
    store_upto(r.du + c, du, left);
  }
}

// Pixel (y, x) by the general rule; r.rows is not used.
template <class C>
void one_pixel(const DepthwiseGrad<C>& d, const C* dy, int64_t dy_first, int64_t y, int64_t x, const Run<C>& r) {
  const Window& w = d.window;
  Tap<C> taps[kMostTaps];
  int64_t count = 0;
  bool more = false;
  for (int64_t ky = 0; ky < w.kernel[0]; ++ky) {
    const int64_t row = y + w.padding[0] - ky * w.dilation[0];
    const int64_t oy = w.stride[0] == 1 ? row : row / w.stride[0];
    if (row < 0 || oy * w.stride[0] != row || oy >= d.out_height) continue;
    for (int64_t kx = 0; kx < w.kernel[1]; ++kx) {
      const int64_t column = x + w.padding[1] - kx * w.dilation[1];
      const int64_t ox = w.stride[1] == 1 ? column : column / w.stride[1];
      if (column < 0 || ox * w.stride[1] != column || ox >= d.out_width) continue;
      taps[count++] = {dy + ((oy - dy_first) * d.out_width + ox) * d.channels, (ky * w.kernel[1] + kx) * kGroup};
      if (count == kMostTaps) {
        gather(taps, count, more, r);
        count = 0;
        more = true;
      }
    }
  }
  gather(taps, count, more, r);
}

template <class C> using Block = void (*)(const Run<C>&);

// Blocks of one kernel width, stride and phase: [with edges][with the weights' gradient].
template <class C> struct Blocks {
  Block<C> wide[2][2], narrow[2][2], single[2];  // a single pixel may always lie at an edge
};
template <class C, int K, int Stride, int Phase, bool Norm> Blocks<C> blocks() {
  constexpr GradForm A = Norm ? GradForm::apply : GradForm::plain, B = Norm ? GradForm::sums : GradForm::plain;
  return {{{block<C, K, Stride, Phase, kWide, false, false, A>, block<C, K, Stride, Phase, kWide, false, true, B>},
           {block<C, K, Stride, Phase, kWide, true, false, A>, block<C, K, Stride, Phase, kWide, true, true, B>}},
          {{block<C, K, Stride, Phase, kNarrow, false, false, A>, block<C, K, Stride, Phase, kNarrow, false, true, B>},
           {block<C, K, Stride, Phase, kNarrow, true, false, A>, block<C, K, Stride, Phase, kNarrow, true, true, B>}},
          {block<C, K, Stride, Phase, 1, true, false, A>, block<C, K, Stride, Phase, 1, true, true, B>}};
}
template <class C, int K, bool Norm> Blocks<C> blocks(int64_t stride, int phase) {
  return stride == 1 ? blocks<C, K, 1, 0, Norm>() : phase ? blocks<C, K, 2, 1, Norm>() : blocks<C, K, 2, 0, Norm>();
}
template <class C> Blocks<C> blocks(int64_t k, int64_t stride, int phase, bool norm) {
  if (norm) return k == 3 ? blocks<C, 3, true>(stride, phase) : blocks<C, 5, true>(stride, phase);
  return k == 3   ? blocks<C, 3, false>(stride, phase)
         : k == 5 ? blocks<C, 5, false>(stride, phase)
                  : blocks<C, 7, 1, 0, false>();
}

template <class C> bool has_blocks(const DepthwiseGrad<C>& d) {
  const int64_t k = d.window.kernel[1], stride = d.window.stride[1];
  return (k == 3 || k == 5 || (k == 7 && stride == 1)) && stride <= 2 && d.window.dilation[1] == 1 &&
         d.window.kernel[0] <= kMostRows;
}

// How many wide blocks a row takes: as many as leave the fewest single pixels beside narrow ones.
inline int64_t wide_blocks(int64_t width) {
  int64_t best = width / kWide;
  for (int64_t count = best; count >= 0 && (width - best * kWide) % kNarrow; --count)
    if ((width - count * kWide) % kNarrow < (width - best * kWide) % kNarrow) best = count;
  return best;
}

// The rows of dy that row y of u meets.
template <class C>
Meetings<C> meetings(const DepthwiseGrad<C>& d, const C* dy, int64_t dy_first, int64_t y) {
  const Window& w = d.window;
  Meetings<C> m;
  for (int64_t ky = 0; ky < w.kernel[0]; ++ky) {
    const int64_t row = y + w.padding[0] - ky * w.dilation[0];
    if (row < 0 || row % w.stride[0] || row / w.stride[0] >= d.out_height) continue;
    m.row[m.count++] = {dy + (row / w.stride[0] - dy_first) * d.out_width * d.channels, ky * w.kernel[1] * kGroup};
  }
  return m;
}

}  // namespace

template <class C> void depthwise_pack(const C* weights, int64_t channels, int64_t taps, C* packed) {
  for (int64_t c = 0; c < channels; c += kGroup, weights += kGroup * taps)
    for (int64_t t = 0; t < taps; ++t, packed += kGroup)
      for (int64_t i = 0; i < kGroup; ++i) packed[i] = c + i < channels ? weights[i * taps + t] : C(0);
}

template <class C> void depthwise_unpack(const C* packed, int64_t channels, int64_t taps, C* weights) {
  for (int64_t c = 0; c < channels; c += kGroup, packed += kGroup * taps)
    for (int64_t i = 0; i < kGroup && c + i < channels; ++i, weights += taps)
      for (int64_t t = 0; t < taps; ++t) weights[t] = packed[t * kGroup + i];
}

namespace {

// Both forms of a row; sums [2][channels] with a norm.
template <class C>
void grad_row(const DepthwiseGrad<C>& d, const NormBackward<C>* norm, const C* dy, int64_t dy_first, int64_t y,
              const C* u, C* du, C* sum, C* sums) {
  constexpr int64_t L = kLanes<C>, kChannels = kChannelBytes / int64_t(sizeof(C));
  const Window& w = d.window;
  const int64_t k = w.kernel[1], stride = w.stride[1], pad = w.padding[1];
  const bool fast = has_blocks(d);
  Blocks<C> of_phase[2];
  Meetings<C> m;
  if (fast) {
    m = meetings(d, dy, dy_first, y);
    for (int phase = 0; phase < stride; ++phase) of_phase[phase] = blocks<C>(k, stride, phase, norm);
  }
  const int64_t wide = wide_blocks(d.width) * kWide;
  Run<C> r;
  r.rows = m.row;
  r.count = m.count;
  r.pixel = d.channels;
  r.far = d.far;
  r.row = d.width * d.channels;
  r.dy_row = d.out_width * d.channels;
  r.group = d.taps() * kGroup;
  for (int64_t chunk = 0; chunk < d.channels; chunk += kChannels) {
    const int64_t size = d.channels - chunk < kChannels ? d.channels - chunk : kChannels;
    const int64_t whole = fast ? size / L * L : 0;
    const int64_t packed = chunk / kGroup * r.group;
    r.weights = d.weights + packed;
    r.sum = sum ? sum + packed : nullptr;
    if (norm) r.norm = norm->from(chunk);
    r.dz = sums ? sums + chunk : nullptr;
    r.dz_x = sums ? sums + d.channels + chunk : nullptr;
    for (int64_t x = 0, step; x < d.width; x += step) {
      step = x < wide ? kWide : x + kNarrow <= d.width ? kNarrow : 1;
      r.u = u ? u + x * d.channels + chunk : nullptr;
      r.du = du ? du + x * d.channels + chunk : nullptr;
      if (whole) {
        const int64_t column = (x + pad) / stride, phase = (x + pad) % stride;
        const bool edge =
            column < (k - 1 - phase + stride - 1) / stride || column + (phase + step - 1) / stride >= d.out_width;
        const Blocks<C>& blocks = of_phase[phase];
        r.channels = whole;
        r.offset = column * d.channels + chunk;
        r.first = -column;
        r.last = d.out_width - column;
        (step == kWide     ? blocks.wide[edge][!!sum]
         : step == kNarrow ? blocks.narrow[edge][!!sum]
                           : blocks.single[!!sum])(r);
      }
      // The channels that fill no vector.
      Run<C> rest = r;
      rest.channels = size - whole;
      rest.weights += whole / kGroup * r.group + whole % kGroup;
      if (sum) rest.sum += whole / kGroup * r.group + whole % kGroup;
      for (int64_t i = 0; i < step && rest.channels; ++i) {
        if (u) rest.u = r.u + i * d.channels + whole;
        rest.du = r.du + i * d.channels + whole;
        one_pixel(d, dy + chunk + whole, dy_first, y, x + i, rest);
      }
    }
  }
}

}  // namespace

template <class C>
void depthwise_grad_row(const DepthwiseGrad<C>& d, const C* dy, int64_t dy_first, int64_t y, const C* u, C* du,
                        C* sum) {
  grad_row<C>(d, nullptr, dy, dy_first, y, u, du, sum, nullptr);
}

template <class C>
void depthwise_norm_row(const DepthwiseGrad<C>& d, const NormBackward<C>& norm, const C* dy, int64_t dy_first,
                        int64_t y, const C* x, C* out, C* sum, C* sums) {
  grad_row<C>(d, &norm, dy, dy_first, y, x, out, sum, sums);
}

template <class C> bool depthwise_norm_fits(const DepthwiseGrad<C>& d, Act act) {
  return has_blocks(d) && d.window.kernel[1] <= 5 && is_clamp(act) && d.channels % kLanes<C> == 0;
}

#define LIGHTOPS_DEPTHWISE_GRAD(C)                                                                                 \
  template void depthwise_pack<C>(const C*, int64_t, int64_t, C*);                                                 \
  template void depthwise_unpack<C>(const C*, int64_t, int64_t, C*);                                               \
  template void depthwise_grad_row<C>(const DepthwiseGrad<C>&, const C*, int64_t, int64_t, const C*, C*, C*);      \
  template void depthwise_norm_row<C>(const DepthwiseGrad<C>&, const NormBackward<C>&, const C*, int64_t, int64_t, \
                                      const C*, C*, C*, C*);                                                       \
  template bool depthwise_norm_fits<C>(const DepthwiseGrad<C>&, Act);
LIGHTOPS_DEPTHWISE_GRAD(float)
LIGHTOPS_DEPTHWISE_GRAD(double)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
