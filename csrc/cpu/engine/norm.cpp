#include "engine/norm.h"

#include "engine/activation.h"
#include "engine/gate.h"
#include "engine/storage.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// Vectors of channels that one pass over the pixels of a chunk takes side by side: their sums hide the latency of the
// additions, and each pixel gives whole cache lines.
constexpr int kGroupVecs = 4;

template <int N> struct Vecs { static constexpr int value = N; };

// Calls f(number of vectors, first channel, valid channels) for groups of kGroupVecs vectors, then of two, then for single,
// partly filled ones.
template <class C, class F> LIGHTOPS_INLINE void for_groups(int64_t channels, const F& f) {
  constexpr int64_t L = kLanes<C>;
  int64_t c = 0;
  for (; c + kGroupVecs * L <= channels; c += kGroupVecs * L) f(Vecs<kGroupVecs>{}, c, kGroupVecs * L);
  for (; c + 2 * L <= channels; c += 2 * L) f(Vecs<2>{}, c, 2 * L);
  for (; c < channels; c += L) f(Vecs<1>{}, c, channels - c < L ? channels - c : L);
}

template <class C, class T, int N>
LIGHTOPS_INLINE void sums_group(const T* in, int64_t stride, int64_t pixels, int64_t count, C* sums) {
  constexpr int L = kLanes<C>;
  if (N > 1) count = N * L;
  Vec<C> sum[N];
  for (int v = 0; v < N; ++v) sum[v] = Vec<C>{};
  for (int64_t p = 0; p < pixels; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) sum[v] += load_upto(in + p * stride + v * L, count - v * L);
  for (int v = 0; v < N; ++v) store_upto(sums + v * L, sum[v], count - v * L);
}

template <class C, class T, int N>
LIGHTOPS_INLINE void forward_group(const Prologue<C>& n, const T* x, int64_t x_stride, const T* residual,
                                   int64_t residual_stride, int64_t pixels, int64_t channel, int64_t count, T* out,
                                   int64_t out_stride) {
  constexpr int L = kLanes<C>;
  if (N > 1) count = N * L;
  const Clamp<C> clamp(n.act);
  const bool clamps = is_clamp(n.act);
  Vec<C> scale[N], shift[N];
  for (int v = 0; v < N; ++v) {
    scale[v] = n.scale ? load_upto(n.scale + channel + v * L, count - v * L) : splat(C(1));
    shift[v] = n.scale ? load_upto(n.shift + channel + v * L, count - v * L) : Vec<C>{};
  }
  for (int64_t p = 0; p < pixels; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) {
      Vec<C> u = load_upto(x + p * x_stride + v * L, count - v * L) * scale[v] + shift[v];
      u = clamps ? clamp(u) : smooth<C>(u, n.act);
      if (residual) u += load_upto(residual + p * residual_stride + v * L, count - v * L);
      store_upto(out + p * out_stride + v * L, u, count - v * L);
    }
  }
}

// How the gradient passes the activation: all of it, where z lies strictly between two bounds, or by a smooth factor.
enum class Gate { open, bounds, smooth };
// What is written: nothing, dz, dz * a, or all of dx.
enum class Write { none, dz, gain, full };

// act'(z) of hardswish and silu.
template <class C> Vec<C> slope(Vec<C> z, Act act) {
  const Vec<C> one = splat(C(1));
  if (act == Act::hardswish) {
    const Vec<C> between = z / splat(C(3)) + splat(C(0.5));
    return z <= splat(C(-3)) ? Vec<C>{} : z >= splat(C(3)) ? one : between;
  }
  const Vec<C> gate = one / (one + exp_of(-z));
  return gate * (one + z * (one - gate));
}

template <class C, class T, class D, Gate G, bool Sum, Write W, int N>
LIGHTOPS_INLINE void backward_group(const NormBackward<C>& n, const T* x, int64_t x_stride, const D* du,
                                    int64_t du_stride, int64_t pixels, int64_t channel, int64_t count, T* out,
                                    int64_t out_stride, C* sum, C* sum_x) {
  constexpr int L = kLanes<C>;
  if (N > 1) count = N * L;
  const Bounds<C> bounds(n.act);
  Vec<C> scale[N], shift[N], mean[N], a[N], b[N], d[N], total[N], total_x[N];
  const auto vector = [&](const C* p, int v, C otherwise) {
    return p && count > v * L ? load_upto(p + channel + v * L, count - v * L) : splat(otherwise);
  };
  for (int v = 0; v < N; ++v) {
    scale[v] = vector(n.scale, v, C(1));
    shift[v] = vector(n.scale ? n.shift : nullptr, v, C(0));
    mean[v] = vector(n.mean, v, C(0));
    a[v] = vector(n.a, v, C(1));
    b[v] = vector(n.b, v, C(0));
    d[v] = vector(n.d, v, C(0));
    total[v] = total_x[v] = Vec<C>{};
  }
  for (int64_t p = 0; p < pixels; ++p, x += x_stride, du += du_stride, out += out_stride) {
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) {
      const int64_t left = count - v * L;
      const Vec<C> value = load_upto(x + v * L, left);
      Vec<C> dz = load_upto(du + v * L, left);
      if (G != Gate::open) {
        const Vec<C> z = value * scale[v] + shift[v];
        if (G == Gate::bounds) dz = bounds(z, dz);
        else dz *= slope<C>(z, n.act);
      }
      const Vec<C> off = value - mean[v];
      if (Sum) {
        total[v] += dz;
        total_x[v] += dz * off;
      }
      if (W == Write::full) dz = dz * a[v] + (off * b[v] + d[v]);
      if (W == Write::gain) dz *= a[v];
      if (W != Write::none) store_upto(out + v * L, dz, left);
    }
  }
  if (Sum) {
    for (int v = 0; v < N; ++v) {
      store_upto(sum + v * L, load_upto(sum + v * L, count - v * L) + total[v], count - v * L);
      store_upto(sum_x + v * L, load_upto(sum_x + v * L, count - v * L) + total_x[v], count - v * L);
    }
  }
}

template <class C, class T, class D, Gate G, bool Sum, Write W>
void backward_typed(const NormBackward<C>& n, const Pixels& x, const Pixels& du, int64_t pixels, int64_t channels,
                    void* out, int64_t out_stride, C* sums, int64_t sums_stride) {
  const T* from = static_cast<const T*>(x.data);
  const D* gradient = static_cast<const D*>(du.data);
  T* to = static_cast<T*>(out);
  for_groups<C>(channels, [&](auto vecs, int64_t c, int64_t count) {
    backward_group<C, T, D, G, Sum, W, decltype(vecs)::value>(
        n, from + c, x.stride, gradient + c, du.stride, pixels, c, count, W == Write::none ? to : to + c, out_stride,
        Sum ? sums + c : nullptr, Sum ? sums + sums_stride + c : nullptr);
  });
}

template <class C, class T, class D, Gate G>
void backward_gate(const NormBackward<C>& n, const Pixels& x, const Pixels& du, int64_t pixels, int64_t channels,
                   void* out, int64_t out_stride, C* sums, int64_t sums_stride) {
  if (n.b)
    return backward_typed<C, T, D, G, false, Write::full>(n, x, du, pixels, channels, out, out_stride, nullptr, 0);
  if (!out)
    return backward_typed<C, T, D, G, true, Write::none>(n, x, du, pixels, channels, nullptr, 0, sums, sums_stride);
  if (n.a && sums)
    return backward_typed<C, T, D, G, true, Write::gain>(n, x, du, pixels, channels, out, out_stride, sums,
                                                         sums_stride);
  if (n.a)
    return backward_typed<C, T, D, G, false, Write::gain>(n, x, du, pixels, channels, out, out_stride, nullptr, 0);
  if (sums)
    return backward_typed<C, T, D, G, true, Write::dz>(n, x, du, pixels, channels, out, out_stride, sums, sums_stride);
  backward_typed<C, T, D, G, false, Write::dz>(n, x, du, pixels, channels, out, out_stride, nullptr, 0);
}

template <class C, class T, class D>
void backward_types(const NormBackward<C>& n, const Pixels& x, const Pixels& du, int64_t pixels, int64_t channels,
                    void* out, int64_t out_stride, C* sums, int64_t sums_stride) {
  if (n.act == Act::none)
    backward_gate<C, T, D, Gate::open>(n, x, du, pixels, channels, out, out_stride, sums, sums_stride);
  else if (is_clamp(n.act))
    backward_gate<C, T, D, Gate::bounds>(n, x, du, pixels, channels, out, out_stride, sums, sums_stride);
  else backward_gate<C, T, D, Gate::smooth>(n, x, du, pixels, channels, out, out_stride, sums, sums_stride);
}

template <class C, class T>
void backward_storage(const NormBackward<C>& n, const Pixels& x, const Pixels& du, int64_t pixels, int64_t channels,
                      void* out, int64_t out_stride, C* sums, int64_t sums_stride) {
  if (du.type == compute_type<C>)
    backward_types<C, T, C>(n, x, du, pixels, channels, out, out_stride, sums, sums_stride);
  else backward_types<C, T, T>(n, x, du, pixels, channels, out, out_stride, sums, sums_stride);
}

double number(const void* p, DType type, int64_t i, double otherwise) {
  if (!p) return otherwise;
  return type == DType::f64 ? static_cast<const double*>(p)[i] : double(static_cast<const float*>(p)[i]);
}

}  // namespace

template <class C>
void column_sums(const void* in, DType type, int64_t stride, int64_t pixels, int64_t channels, C* sums) {
  Storage<C>::with(type, [&](auto* tag) {
    const auto* from = static_cast<decltype(tag)>(const_cast<void*>(in));
    for_groups<C>(channels, [&](auto vecs, int64_t c, int64_t count) {
      sums_group<C, Pointee<decltype(tag)>, decltype(vecs)::value>(from + c, stride, pixels, count, sums + c);
    });
  });
}

// In double: it costs one addition a chunk and channel.
template <class C> void merge_sums(int64_t chunks, const C* parts, int64_t stride, int64_t channels, C* out) {
  constexpr int64_t kBlock = 64;
  for (int64_t c = 0; c < channels; c += kBlock) {
    const int64_t count = channels - c < kBlock ? channels - c : kBlock;
    double sum[kBlock] = {};
    for (int64_t i = 0; i < chunks; ++i)
      for (int64_t k = 0; k < count; ++k) sum[k] += double(parts[i * stride + c + k]);
    for (int64_t k = 0; k < count; ++k) out[c + k] = C(sum[k]);
  }
}

// All vectors are of the compute type. Plain loops over whole vectors of channels: one thread does this while others wait.
template <class C> void affine_of(const Norm& norm, int64_t channels, C* scale, C* shift) {
  const C *mean = static_cast<const C*>(norm.mean), *var = static_cast<const C*>(norm.var);
  const C *gamma = static_cast<const C*>(norm.gamma), *beta = static_cast<const C*>(norm.beta);
  for (int64_t c = 0; c < channels; ++c) {
    scale[c] = C(1);
    shift[c] = C(0);
  }
  if (!mean) return;
  constexpr int64_t kBlock = 64;
  double gain[kBlock];
  for (int64_t first = 0; first < channels; first += kBlock) {
    const int64_t count = channels - first < kBlock ? channels - first : kBlock;
    for (int64_t i = 0; i < count; ++i) gain[i] = gamma ? double(gamma[first + i]) : 1;
    for (int64_t i = 0; i < count; ++i) gain[i] /= sqrt(double(var[first + i]) + norm.eps);
    for (int64_t i = 0; i < count; ++i) {
      scale[first + i] = C(gain[i]);
      shift[first + i] = C((beta ? double(beta[first + i]) : 0) - double(mean[first + i]) * gain[i]);
    }
  }
}

template <class C>
void norm_forward(const Prologue<C>& n, const Pixels& x, const Pixels& residual, int64_t pixels, int64_t channels,
                  void* out, int64_t out_stride) {
  Storage<C>::with(x.type, [&](auto* tag) {
    using T = Pointee<decltype(tag)>;
    const T *from = static_cast<const T*>(x.data), *add = static_cast<const T*>(residual.data);
    T* to = static_cast<T*>(out);
    for_groups<C>(channels, [&](auto vecs, int64_t c, int64_t count) {
      forward_group<C, T, decltype(vecs)::value>(n, from + c, x.stride, add ? add + c : nullptr, residual.stride,
                                                 pixels, c, count, to + c, out_stride);
    });
  });
}

template <class C>
void norm_backward(const NormBackward<C>& n, const Pixels& x, const Pixels& du, int64_t pixels, int64_t channels,
                   void* out, int64_t out_stride, C* sums, int64_t sums_stride) {
  Storage<C>::with(x.type, [&](auto* tag) {
    backward_storage<C, Pointee<decltype(tag)>>(n, x, du, pixels, channels, out, out_stride, sums, sums_stride);
  });
}

template <class C>
void norm_backward_finish(const NormBackward<C>& n, const Pixels& x, int64_t pixels, int64_t channels, void* dz,
                          int64_t dz_stride) {
  Storage<C>::with(x.type, [&](auto* tag) {
    using T = Pointee<decltype(tag)>;
    backward_typed<C, T, T, Gate::open, false, Write::full>(n, x, {dz, x.type, dz_stride}, pixels, channels, dz,
                                                            dz_stride, nullptr, 0);
  });
}

template <class C>
void norm_gradients(const Norm& norm, int64_t count, const C* sum, const C* sum_x, int64_t first, int64_t last,
                    C* dgamma, C* dbeta, C* a, C* b, C* d) {
  const DType type = compute_type<C>;
  for (int64_t c = first; c < last; ++c) {
    const double inverse = norm.mean ? 1 / sqrt(number(norm.var, type, c, 1) + norm.eps) : 1;
    const double gain = number(norm.gamma, type, c, 1) * inverse;
    if (dgamma) dgamma[c] = C(double(sum_x[c]) * inverse);
    if (dbeta) dbeta[c] = sum[c];
    a[c] = C(gain);
    b[c] = C(norm.batch ? -gain * inverse * inverse * double(sum_x[c]) / double(count) : 0);
    d[c] = C(norm.batch ? -gain * double(sum[c]) / double(count) : 0);
  }
}

#define LIGHTOPS_NORM(C)                                                                                             \
  template void column_sums<C>(const void*, DType, int64_t, int64_t, int64_t, C*);                                   \
  template void merge_sums<C>(int64_t, const C*, int64_t, int64_t, C*);                                              \
  template void affine_of<C>(const Norm&, int64_t, C*, C*);                                                          \
  template void norm_forward<C>(const Prologue<C>&, const Pixels&, const Pixels&, int64_t, int64_t, void*, int64_t); \
  template void norm_backward<C>(const NormBackward<C>&, const Pixels&, const Pixels&, int64_t, int64_t, void*,      \
                                 int64_t, C*, int64_t);                                                              \
  template void norm_backward_finish<C>(const NormBackward<C>&, const Pixels&, int64_t, int64_t, void*, int64_t);    \
  template void norm_gradients<C>(const Norm&, int64_t, const C*, const C*, int64_t, int64_t, C*, C*, C*, C*, C*);
LIGHTOPS_NORM(float)
LIGHTOPS_NORM(double)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
