// Chains: operators that follow each other, run by one call. Going through Python and the dispatcher for every block costs
// 7 to 10 us a block, a twentieth of MobileNetV2's time at batch 1 on one thread; inside a chain a block costs 1 us.
//
// A chain is not described, it is recorded: while a recording is on, an operator that runs is also kept, with all its
// arguments but x. So a chain computes what its operators compute, argument checks included.
#pragma once

#include <array>
#include <functional>
#include <utility>

#include "common.h"

namespace lightops {
namespace binding {

using ChainStep = std::function<Tensor(Tensor)>;

// The recording of the calling thread.
struct Recording {
  bool on = false;
  bool exact = true;  // false: an operator ran that depends on another image than x
  int64_t calls = 0;
  const void* x = nullptr;
  OptionalTensor out;
  ChainStep step;
};
Recording& recording();

// Weights are one-dimensional: a four-dimensional argument is an image, which must be x itself, as a residual is.
enum class Operand { fixed, is_x, other };
template <class T> Operand operand_of(const T&, const void*) { return Operand::fixed; }
inline Operand operand_of(const Tensor& t, const void* x) {
  return t.dim() < 4 ? Operand::fixed : t.data_ptr() == x ? Operand::is_x : Operand::other;
}
inline Operand operand_of(const OptionalTensor& t, const void* x) {
  return t.has_value() ? operand_of(*t, x) : Operand::fixed;
}

template <class T> const T& replaced(const T& argument, Operand, const Tensor&) { return argument; }
inline OptionalTensor replaced(const OptionalTensor& argument, Operand operand, const Tensor& x) {
  return operand == Operand::is_x ? OptionalTensor(x) : argument;
}

// An operator with the schema `op(Tensor x, ...) -> Tensor` that can be a step of a chain: give `call` to TORCH_BOX.
template <auto Op> struct Recordable;
template <class... A, Tensor (*Op)(Tensor, A...)> struct Recordable<Op> {
  using Indices = std::index_sequence_for<A...>;

  static Tensor call(Tensor x, A... arguments) {
    Recording& r = recording();
    if (!r.on) return Op(std::move(x), std::move(arguments)...);
    ++r.calls;
    r.x = x.data_ptr();
    const std::array<Operand, sizeof...(A)> operands{operand_of(arguments, r.x)...};
    for (const Operand o : operands) r.exact = r.exact && o != Operand::other;
    Tensor out = Op(x, arguments...);
    r.out = out;
    r.step = [operands, arguments...](Tensor y) { return run(std::move(y), operands, Indices(), arguments...); };
    return out;
  }

 private:
  template <size_t... I>
  static Tensor run(Tensor x, const std::array<Operand, sizeof...(A)>& operands, std::index_sequence<I...>,
                    const A&... arguments) {
    return Op(x, replaced(arguments, operands[I], x)...);
  }
};

}  // namespace binding
}  // namespace lightops
