#include "engine/rows.h"

#include "engine/activation.h"
#include "engine/storage.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// The prologue with its three shapes resolved outside the pixel loop.
enum class Step { copy, clamp, affine, smooth };

template <class C> Step step_of(const Prologue<C>& p) {
  if (!is_clamp(p.act)) return Step::smooth;
  if (p.scale) return Step::affine;
  return p.act == Act::none ? Step::copy : Step::clamp;
}

template <class C, Step S>
LIGHTOPS_INLINE Vec<C> apply(const Prologue<C>& p, const Clamp<C>& clamp, Vec<C> v, int64_t c, int64_t count) {
  if (S == Step::copy) return v;
  if (S == Step::clamp) return clamp(v);
  if (p.scale) v = v * load_upto(p.scale + c, count) + load_upto(p.shift + c, count);
  return S == Step::affine ? clamp(v) : smooth<C>(v, p.act);
}

template <class E, class T, Step S>
void load_typed(const T* in, int64_t in_stride, int64_t pixels, int64_t channels, const Prologue<Compute<E>>& p,
                E* out) {
  using C = Compute<E>;
  constexpr int L = kLanes<C>;
  const Clamp<C> clamp(p.act);
  const int64_t whole = channels / L * L, out_stride = pitch<E>(channels);
  for (int64_t i = 0; i < pixels; ++i, in += in_stride, out += out_stride) {
    for (int64_t c = 0; c < whole; c += L) store(out + c, apply<C, S>(p, clamp, load(in + c), c, L));
    if (whole < channels) {
      const int64_t left = channels - whole;
      store(out + whole, apply<C, S>(p, clamp, load_partial(in + whole, left), whole, left));
    }
  }
}

// Nothing behind a pixel is written: the next row of a shared tile is another task's.
template <class E, class T, Step S>
void pool_typed(const T* top, const T* bottom, int64_t in_stride, int64_t pixels, int64_t channels,
                const Prologue<Compute<E>>& p, E* out) {
  using C = Compute<E>;
  constexpr int L = kLanes<C>;
  const Clamp<C> clamp(p.act);
  const int64_t out_stride = pitch<E>(channels);
  for (int64_t i = 0; i < pixels; ++i, top += 2 * in_stride, bottom += 2 * in_stride, out += out_stride) {
    for (int64_t c = 0; c < channels; c += L) {
      const int64_t left = channels - c;
      Vec<C> sum = apply<C, S>(p, clamp, load_upto(top + c, left), c, left);
      sum += apply<C, S>(p, clamp, load_upto(top + in_stride + c, left), c, left);
      sum += apply<C, S>(p, clamp, load_upto(bottom + c, left), c, left);
      sum += apply<C, S>(p, clamp, load_upto(bottom + in_stride + c, left), c, left);
      store_upto(out + c, sum * splat(C(0.25)), out_stride - c);
    }
  }
}

template <class C, class T, Step S>
void accumulate_typed(const T* in, int64_t in_stride, int64_t pixels, int64_t channels, const Prologue<C>& p, C* sum) {
  constexpr int L = kLanes<C>;
  const Clamp<C> clamp(p.act);
  for (int64_t c = 0; c < channels; c += L) {
    const int64_t left = channels - c;
    Vec<C> total = load_upto(sum + c, left);
    for (int64_t i = 0; i < pixels; ++i)
      total += apply<C, S>(p, clamp, load_upto(in + i * in_stride + c, left), c, left);
    store_upto(sum + c, total, left);
  }
}

// Calls Body<C, T, S>::run(arguments...) with the storage type and the prologue step as types.
template <template <class, class, Step> class Body, class C, class T, class... A>
void with_step(Step step, A... arguments) {
  switch (step) {
    case Step::copy: return Body<C, T, Step::copy>::run(arguments...);
    case Step::clamp: return Body<C, T, Step::clamp>::run(arguments...);
    case Step::affine: return Body<C, T, Step::affine>::run(arguments...);
    case Step::smooth: return Body<C, T, Step::smooth>::run(arguments...);
  }
}
template <template <class, class, Step> class Body, class C> struct Dispatch {
  template <class... A> static void run(DType type, Step step, A... arguments) {
    if (type == DType::bf16) with_step<Body, C, bf16>(step, arguments...);
    else if (type == DType::f16) with_step<Body, C, f16>(step, arguments...);
    else with_step<Body, C, float>(step, arguments...);
  }
};
template <template <class, class, Step> class Body> struct Dispatch<Body, double> {
  template <class... A> static void run(DType, Step step, A... arguments) {
    with_step<Body, double, double>(step, arguments...);
  }
};
template <template <class, class, Step> class Body> struct Dispatch<Body, bf16> {
  template <class... A> static void run(DType, Step step, A... arguments) {
    with_step<Body, bf16, bf16>(step, arguments...);
  }
};

template <class E, class T, Step S> struct Load {
  static void run(const void* in, int64_t stride, int64_t pixels, int64_t channels, const Prologue<Compute<E>>* p,
                  E* out) {
    load_typed<E, T, S>(static_cast<const T*>(in), stride, pixels, channels, *p, out);
  }
};
template <class E, class T, Step S> struct Pool {
  static void run(const void* top, const void* bottom, int64_t stride, int64_t pixels, int64_t channels,
                  const Prologue<Compute<E>>* p, E* out) {
    pool_typed<E, T, S>(static_cast<const T*>(top), static_cast<const T*>(bottom), stride, pixels, channels, *p, out);
  }
};
template <class C, class T, Step S> struct Accumulate {
  static void run(const void* in, int64_t stride, int64_t pixels, int64_t channels, const Prologue<C>* p, C* sum) {
    accumulate_typed<C, T, S>(static_cast<const T*>(in), stride, pixels, channels, *p, sum);
  }
};

}  // namespace

template <class E>
void load_pixels(const void* in, DType type, int64_t in_stride, int64_t pixels, int64_t channels,
                 const Prologue<Compute<E>>& prologue, E* out) {
  if (!prologue.scale && in_stride == channels &&
      pitch<E>(channels) == channels) {  // alike for all channels, without gaps: one long pixel
    channels *= pixels;
    in_stride = channels;
    pixels = 1;
  }
  Dispatch<Load, E>::run(type, step_of(prologue), in, in_stride, pixels, channels, &prologue, out);
}

template <class E>
void load_pooled_row(const void* top, const void* bottom, DType type, int64_t in_stride, int64_t out_pixels,
                     int64_t channels, const Prologue<Compute<E>>& prologue, E* out) {
  Dispatch<Pool, E>::run(type, step_of(prologue), top, bottom, in_stride, out_pixels, channels, &prologue, out);
}

template <class E>
void load_padded_row(const Nhwc& image, DType type, int64_t n, int64_t y, int64_t pad,
                     const Prologue<Compute<E>>& prologue, E* out) {
  const int64_t row = image.w * pitch<E>(image.c), border = pad * pitch<E>(image.c);
  if (y < 0 || y >= image.h) {
    memset(out, 0, size_t(row + 2 * border) * sizeof(E));
    return;
  }
  memset(out, 0, size_t(border) * sizeof(E));
  load_pixels<E>(at(image.data, type, n * image.image + y * image.row()), type, image.pixel, image.w, image.c, prologue,
                 out + border);
  memset(out + border + row, 0, size_t(border) * sizeof(E));
}

template <class C>
void accumulate_pixels(const void* in, DType type, int64_t in_stride, int64_t pixels, int64_t channels,
                       const Prologue<C>& prologue, C* sum) {
  Dispatch<Accumulate, C>::run(type, step_of(prologue), in, in_stride, pixels, channels, &prologue, sum);
}

namespace {

// Vector J of the 3 L values that L pixels of three planes are interleaved: planes 0 and 1 are merged, then plane 2 put in.
template <class C, int J, int... I>
LIGHTOPS_INLINE Vec<C> interleaved(Vec<C> a, Vec<C> b, Vec<C> c, Sequence<I...>) {
  constexpr int L = kLanes<C>, from = J * L;
  const Vec<C> pair = shuffle<C, ((from + I) % 3 == 2 ? 0 : (from + I) % 3 * L + (from + I) / 3)...>(a, b);
  return shuffle<C, ((from + I) % 3 == 2 ? L + (from + I) / 3 : I)...>(pair, c);
}

template <class C, class T>
void interleave(const T* planes, int64_t channels, int64_t plane, int64_t width, C* out) {
  constexpr int L = kLanes<C>;
  if (channels == 3) {  // images: scalar stores took 60% of MobileNet's whole stem
    int64_t x = 0;
    for (; x + L <= width; x += L) {
      const Vec<C> a = load(planes + x), b = load(planes + plane + x), c = load(planes + 2 * plane + x);
      store(out + x * 3, interleaved<C, 0>(a, b, c, EachLane<C>{}));
      store(out + x * 3 + L, interleaved<C, 1>(a, b, c, EachLane<C>{}));
      store(out + x * 3 + 2 * L, interleaved<C, 2>(a, b, c, EachLane<C>{}));
    }
    planes += x;
    out += x * 3;
    width -= x;
  }
  C values[L];
  for (int64_t c = 0; c < channels; ++c) {
    const T* in = planes + c * plane;
    for (int64_t x = 0; x < width; x += L) {
      const int64_t count = width - x < L ? width - x : L;
      store(values, load_upto(in + x, count));
      for (int64_t i = 0; i < count; ++i) out[(x + i) * channels + c] = values[i];
    }
  }
}

#if LIGHTOPS_PAIRS
// Sixteen pixels of three planes are two vectors of four channels, the last of them zero.
void interleave(const bf16* planes, int64_t channels, int64_t plane, int64_t width, bf16* out) {
  const int64_t stride = pitch<bf16>(channels);
  int64_t x = 0;
  if (channels == 3) {
    constexpr int L = kLanes<float>;
    const __m512i first = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    for (; x + L <= width; x += L) {
      VecH plane_values[3];
      for (int c = 0; c < 3; ++c) memcpy(&plane_values[c], planes + c * plane + x, sizeof(VecH));
      const VecU low = widened(plane_values[0]) | widened(plane_values[1]) << 16, high = widened(plane_values[2]);
      _mm512_storeu_si512(out + x * 4, _mm512_permutex2var_epi32(__m512i(low), first, __m512i(high)));
      _mm512_storeu_si512(out + x * 4 + 2 * L, _mm512_permutex2var_epi32(__m512i(low), second, __m512i(high)));
    }
  }
  memset(out + x * stride, 0, size_t((width - x) * stride) * sizeof(bf16));
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t i = x; i < width; ++i) out[i * stride + c] = planes[c * plane + i];
}
#endif

template <class C, class T> void store_typed(const C* values, int64_t count, T* out) {
  for (int64_t i = 0; i < count; i += kLanes<C>) store_upto(out + i, load_upto(values + i, count - i), count - i);
}

}  // namespace

template <class E>
void load_planar_row(const void* planes, DType type, int64_t channels, int64_t height, int64_t width, int64_t y,
                     int64_t pad, E* out) {
  const int64_t row = width * pitch<E>(channels), border = pad * pitch<E>(channels);
  if (y < 0 || y >= height) {
    memset(out, 0, size_t(row + 2 * border) * sizeof(E));
    return;
  }
  memset(out, 0, size_t(border) * sizeof(E));
  Storage<E>::with(type, [&](auto* tag) {
    interleave(static_cast<decltype(tag)>(const_cast<void*>(planes)) + y * width, channels, height * width, width,
               out + border);
  });
  memset(out + border + row, 0, size_t(border) * sizeof(E));
}

template <class C> void store_values(const C* values, int64_t count, DType type, void* out) {
  Storage<C>::with(type, [&](auto* tag) { store_typed<C>(values, count, static_cast<decltype(tag)>(out)); });
}

#define LIGHTOPS_LOADS(E)                                                                                           \
  template void load_pixels<E>(const void*, DType, int64_t, int64_t, int64_t, const Prologue<Compute<E>>&, E*);     \
  template void load_pooled_row<E>(const void*, const void*, DType, int64_t, int64_t, int64_t,                      \
                                   const Prologue<Compute<E>>&, E*);                                                \
  template void load_padded_row<E>(const Nhwc&, DType, int64_t, int64_t, int64_t, const Prologue<Compute<E>>&, E*); \
  template void load_planar_row<E>(const void*, DType, int64_t, int64_t, int64_t, int64_t, int64_t, E*);
#define LIGHTOPS_ROWS(C)                                                                                     \
  LIGHTOPS_LOADS(C)                                                                                          \
  template void accumulate_pixels<C>(const void*, DType, int64_t, int64_t, int64_t, const Prologue<C>&, C*); \
  template void store_values<C>(const C*, int64_t, DType, void*);
LIGHTOPS_ROWS(float)
LIGHTOPS_ROWS(double)
#if LIGHTOPS_PAIRS
LIGHTOPS_LOADS(bf16)
#endif

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
