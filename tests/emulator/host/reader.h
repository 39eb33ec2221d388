// How an op's parameters travel from tests/emulator/harness.py, and the call with a poisoned workspace.
#pragma once

#include <cstring>
#include <memory>
#include <string>

#include "lightops/training/cuda.h"
#include "memory.h"

namespace emulator {

using namespace lightops;
using namespace lightops::cuda;

// Fields in the order in which tests/emulator/harness.py writes them; pointers travel as integers.
struct Reader {
  const int64_t* next;
  int64_t number() { return *next++; }
  void* pointer() { return reinterpret_cast<void*>(*next++); }
  Nhwc tensor() {
    Nhwc t;
    t.data = pointer();
    t.n = number(), t.h = number(), t.w = number(), t.c = number(), t.pixel = number(), t.image = number();
    return t;
  }
  Window window() {
    Window w;
    for (auto* field : {w.kernel, w.stride, w.padding, w.dilation})
      for (int axis = 0; axis < 2; ++axis) field[axis] = number();
    return w;
  }
  Act act() { return static_cast<Act>(number()); }
  Norm norm() {
    Norm n;
    n.mean = pointer(), n.var = pointer(), n.gamma = pointer(), n.beta = pointer();
    const int64_t bits = number();
    std::memcpy(&n.eps, &bits, sizeof bits);
    n.batch = number() != 0;
    return n;
  }
  TrainWeight weight() {
    TrainWeight w;
    w.data = pointer();
    for (int64_t& stride : w.stride) stride = number();
    return w;
  }
};

template <class Params>
Result run(Params& p, const Device& device, int64_t (*workspace)(const Params&, const Device&),
           Result (*call)(const Params&, const Device&, StreamHandle)) {
  const int64_t bytes = workspace(p, device);
  std::unique_ptr<unsigned char[]> store(new unsigned char[bytes + 512]);
  std::memset(store.get(), 0xff, bytes + 512);
  p.workspace = store.get() + (512 - reinterpret_cast<std::uintptr_t>(store.get()) % 256) % 256;
  if (bytes) emulator::add_region(p.workspace, bytes, true, "workspace");
  return call(p, device, nullptr);
}

Result run_training(const std::string& op, DType type, Reader r, const Device& device);

}  // namespace emulator
