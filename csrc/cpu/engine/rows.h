// Moving rows of pixels from tensors into the scratch strips that the products read: convert, normalise, activate, pool.
// E is what the strip holds, the compute type C or bf16; what happens on the way is computed in C.
#pragma once

#include "engine/vec.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// What happens to a value on its way in: act(x * scale[c] + shift[c]). Null scale: only act. Act none and null: a copy.
template <class C> struct Prologue {
  const C* scale = nullptr;
  const C* shift = nullptr;
  Act act = Act::none;

  bool identity() const { return !scale && act == Act::none; }
};

// Channels of a pixel in a strip: bf16 is read in pairs, so an odd number of channels has one of zeros behind it.
template <class E> inline int64_t pitch(int64_t channels) { return channels; }
template <> inline int64_t pitch<bf16>(int64_t channels) { return round_up(channels, 2); }

// out[p][c] = prologue(in[p][c]) for `pixels` pixels. `out` is dense (stride pitch<E>(channels)) and must have room for one
// vector past its end: a partial vector is stored whole and its spill overwritten by the next pixel.
template <class E>
void load_pixels(const void* in, DType type, int64_t in_stride, int64_t pixels, int64_t channels,
                 const Prologue<Compute<E>>& prologue, E* out);

// One output row of a 2x2 average pool over prologue(in): out[x][c] = mean of the four activated values.
template <class E>
void load_pooled_row(const void* top, const void* bottom, DType type, int64_t in_stride, int64_t out_pixels,
                     int64_t channels, const Prologue<Compute<E>>& prologue, E* out);

// A source image row that may lie outside the image, written with `pad` zero pixels on both sides: the padded row that
// kxk convolutions read. `y` outside [0, h) gives zeros: padding comes after the activation.
template <class E>
void load_padded_row(const Nhwc& image, DType type, int64_t n, int64_t y, int64_t pad,
                     const Prologue<Compute<E>>& prologue, E* out);

// sum[c] += prologue(in[p][c]) over pixels.
template <class C>
void accumulate_pixels(const void* in, DType type, int64_t in_stride, int64_t pixels, int64_t channels,
                       const Prologue<C>& prologue, C* sum);

// The same row from a planar image: [C][H][W] planes, interleaved on the way in.
template <class E>
void load_planar_row(const void* planes, DType type, int64_t channels, int64_t height, int64_t width, int64_t y,
                     int64_t pad, E* out);

// Dense compute-type values to the storage type.
template <class C> void store_values(const C* values, int64_t count, DType type, void* out);

inline int64_t type_size(DType type) { return type == DType::f32 ? 4 : type == DType::f64 ? 8 : 2; }
inline const char* at(const void* base, DType type, int64_t offset) {
  return static_cast<const char*>(base) + offset * type_size(type);
}
inline char* at(void* base, DType type, int64_t offset) {
  return const_cast<char*>(at(static_cast<const void*>(base), type, offset));
}

template <class C> constexpr DType compute_type = DType::f32;
template <> constexpr DType compute_type<double> = DType::f64;
template <> constexpr DType compute_type<bf16> = DType::bf16;

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
