#include "lightops/training/dropout_noise.h"

#include "common.h"

namespace lightops {
namespace binding {

void dropout_noise_(Tensor noise, Tensor state, double keep, double value) {
  const char* op = "dropout_noise_";
  DropoutNoiseParams p;
  p.type = dtype_of(op, "noise", noise);
  STD_TORCH_CHECK(noise.is_cpu() && state.is_cpu(), "lightops::", op, ": 'noise' and 'state' must be on the CPU");
  STD_TORCH_CHECK(state.scalar_type() == ScalarType::Byte && state.is_contiguous() && state.numel() >= kGeneratorBytes,
                  "lightops::", op, ": 'state' has shape ", shape_of(state),
                  "; want what torch.Generator.get_state() returns");
  STD_TORCH_CHECK(keep >= 0 && keep <= 1, "lightops::", op, ": 'keep' is ", keep, "; want a probability");
  p.out = noise.data_ptr();
  p.count = noise.numel();
  p.keep = keep;
  p.value = value;
  p.state = state.data_ptr();
  dropout_noise_cpu(p);
}

STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) { m.impl("dropout_noise_", TORCH_BOX(&dropout_noise_)); }

}  // namespace binding
}  // namespace lightops
