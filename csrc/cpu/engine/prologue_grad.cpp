#include "engine/prologue_grad.h"

#include "engine/storage.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// Two vectors of channels side by side, all pixels: one panel of a product.
template <int Vecs, class C, class T, class B>
void add_columns(const MaskedAdd<C>& m, const T* x, const B* base, int64_t c) {
  constexpr int L = kLanes<C>;
  const int64_t count = m.channels - c;
  const bool whole = count >= Vecs * L;
  Vec<C> scale[Vecs], shift[Vecs], mean[Vecs], sum[Vecs], product[Vecs];
  for (int v = 0; v < Vecs; ++v) {
    const int64_t left = count - v * L;
    scale[v] = load_upto(m.norm.scale + c + v * L, left);
    shift[v] = load_upto(m.norm.shift + c + v * L, left);
    mean[v] = load_upto(m.norm.mean + c + v * L, left);
    sum[v] = product[v] = Vec<C>{};
  }
  const auto pixel = [&](int64_t i, int v, int64_t left) {
    const Vec<C> value = load_upto(x + i * m.x_stride + c + v * L, left);
    const Vec<C> du = load_upto(m.du + i * m.du_stride + c + v * L, left);
    // NaN counts as positive, as in torch's threshold.
    const Vec<C> dz = value * scale[v] + shift[v] <= Vec<C>{} ? Vec<C>{} : du;
    sum[v] += dz;
    product[v] += dz * (value - mean[v]);
    Vec<C> out = scale[v] * dz;
    if (base) out += load_upto(base + i * m.base_stride + c + v * L, left);
    store_upto(m.out + i * m.out_stride + c + v * L, out, left);
  };
  if (whole) {
    for (int64_t i = 0; i < m.pixels; ++i) {
      if (m.ahead) {
        const int64_t next = c + Vecs * L;
        for (int64_t b = 0; b < Vecs * kVecBytes; b += kCacheLine) {
          __builtin_prefetch(reinterpret_cast<const char*>(x + i * m.x_stride + next) + b, 0, 2);
          if (base) __builtin_prefetch(reinterpret_cast<const char*>(base + i * m.base_stride + next) + b, 1, 2);
        }
      }
#pragma GCC unroll 2
      for (int v = 0; v < Vecs; ++v) pixel(i, v, L);
    }
  } else {
    for (int64_t i = 0; i < m.pixels; ++i)
      for (int v = 0; v < Vecs; ++v) pixel(i, v, count - v * L);
  }
  for (int v = 0; v < Vecs; ++v) {
    const int64_t left = count - v * L;
    store_upto(m.sum + c + v * L, load_upto(m.sum + c + v * L, left) + sum[v], left);
    store_upto(m.product + c + v * L, load_upto(m.product + c + v * L, left) + product[v], left);
  }
}

}  // namespace

template <class C> void masked_add(const MaskedAdd<C>& m) {
  constexpr int64_t L = kLanes<C>;
  Storage<C>::with(m.type, [&](auto* x) {
    x = static_cast<decltype(x)>(const_cast<void*>(m.x));
    Storage<C>::with(m.base_type, [&](auto* base) {
      base = static_cast<decltype(base)>(const_cast<void*>(m.base));
      int64_t c = 0;
      for (; c + 2 * L <= m.channels; c += 2 * L) add_columns<2>(m, x, base, c);
      for (; c < m.channels; c += L) add_columns<1>(m, x, base, c);
    });
  });
}

namespace {

template <bool Whole, class C, class T, class G, class Out>
void correct_pixels(const Corrected<C>& k, const T* x, const T* mask, const G* g, Out* out) {
  constexpr int64_t L = kLanes<C>;
  const bool batch = k.b != nullptr;
  for (int64_t i = 0; i < k.pixels; ++i) {
    for (int64_t c = 0; c < k.channels; c += L) {
      const int64_t left = Whole ? L : k.channels - c;
      Vec<C> v = load_upto(g + i * k.g_stride + c, left);
      if (batch) {
        const Vec<C> off = load_upto(x + i * k.x_stride + c, left) - load_upto(k.mean + c, left);
        v += off * load_upto(k.b + c, left) + load_upto(k.d + c, left);
      }
      if (mask) v *= load_upto(mask + i * k.mask_stride + c, left);
      store_upto(out + i * k.out_stride + c, v, left);
    }
  }
}

}  // namespace

template <class C> void corrected(const Corrected<C>& k) {
  constexpr int64_t L = kLanes<C>;
  Storage<C>::with(k.type, [&](auto* x) {
    x = static_cast<decltype(x)>(const_cast<void*>(k.x));
    const auto* mask = static_cast<decltype(x)>(const_cast<void*>(k.mask));
    Storage<C>::with(k.g_type, [&](auto* g) {
      g = static_cast<decltype(g)>(const_cast<void*>(k.g));
      Storage<C>::with(k.out_type, [&](auto* out) {
        out = static_cast<decltype(out)>(k.out);
        if (k.channels % L == 0) correct_pixels<true>(k, x, mask, g, out);
        else correct_pixels<false>(k, x, mask, g, out);
      });
    });
  });
}

template void masked_add<float>(const MaskedAdd<float>&);
template void masked_add<double>(const MaskedAdd<double>&);
template void corrected<float>(const Corrected<float>&);
template void corrected<double>(const Corrected<double>&);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
