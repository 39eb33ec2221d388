#include "../../training/fire.h"

#include "common.h"

namespace lightops {
namespace cuda_binding {
namespace {

using Tensors7 = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// A bias as the kernels take it, in float32; `keep` holds the copy.
const void* bias_of(const Call& call, const char* name, const OptionalTensor& b, int64_t channels,
                    std::vector<Tensor>* keep) {
  if (!b.has_value()) return nullptr;
  call.check_like_x(name, *b, {channels});
  keep->push_back(torch::stable::contiguous(torch::stable::to(*b, ScalarType::Float)));
  return keep->back().data_ptr();
}

// The three weights of either Params; the expand3 channels are returned.
template <class Params>
int64_t take_weights(const Call& call, const Tensor& ws, const Tensor& w1, const Tensor& w3, Params* p) {
  binding::check_fire_weights(call.op, ws, w1, w3);
  const int64_t squeeze = ws.size(0), expand3 = w3.size(0);
  p->expand1 = w1.size(0);
  p->ws = weight_of(call, "ws", ws, {squeeze, p->x.c, 1, 1});
  p->w1 = weight_of(call, "w1", w1, {p->expand1, squeeze, 1, 1});
  p->w3 = weight_of(call, "w3", w3, {expand3, squeeze, 3, 3});
  return expand3;
}

Tensor fire_train(Tensor x, Tensor ws, OptionalTensor bs, Tensor w1, OptionalTensor b1, Tensor w3, OptionalTensor b3,
                  int64_t) {
  const Call call("fire_train", x);
  FireTrainParams p;
  std::vector<Tensor> keep;
  p.x = call.image("x", x);
  p.type = call.type;
  const int64_t expand3 = take_weights(call, ws, w1, w3, &p);
  p.squeeze = ws.size(0);
  p.bs = bias_of(call, "bs", bs, p.squeeze, &keep);
  p.b1 = bias_of(call, "b1", b1, p.expand1, &keep);
  p.b3 = bias_of(call, "b3", b3, expand3, &keep);
  Tensor out = call.new_image(p.x.n, p.expand1 + expand3, p.x.h, p.x.w);
  if (out.numel() == 0) return out;
  p.out = call.image("out", out);
  call.run(p, cuda::fire_train_cuda_workspace, cuda::fire_train_cuda);
  return out;
}

Tensors7 fire_train_backward(Tensor dout, Tensor x, Tensor out, Tensor ws, OptionalTensor bs, Tensor w1, Tensor w3,
                             int64_t, std::vector<bool> needs) {
  const Call call("fire_train_backward", x);
  FireTrainBackwardParams p;
  std::vector<Tensor> keep;
  p.x = call.image("x", x);
  p.type = call.type;
  const int64_t expand3 = take_weights(call, ws, w1, w3, &p);
  p.squeeze_channels = ws.size(0);
  p.bs = bias_of(call, "bs", bs, p.squeeze_channels, &keep);
  p.dout = call.image("dout", dout, {p.x.n, p.expand1 + expand3, p.x.h, p.x.w});
  p.out = call.image("out", out, {p.x.n, p.expand1 + expand3, p.x.h, p.x.w});
  STD_TORCH_CHECK(needs.size() == 7, "lightops::", call.op, ": 'needs' must hold 7 flags: x, ws, bs, w1, b1, w3, b3");

  Tensor dx = needs[0] ? call.new_image(p.x.n, p.x.c, p.x.h, p.x.w) : call.new_tensor({0}, call.scalar());
  std::vector<Tensor> grads = binding::fire_gradients(
      ws, w1, w3, needs, [&](const Ints& size) { return call.new_tensor(size, call.scalar()); });
  if (dout.numel() == 0) {
    for (Tensor& g : grads) torch::stable::zero_(g);
  } else {
    binding::place_gradients(grads, &p);
    const bool through = needs[0] || needs[1] || needs[2];
    const int64_t narrow = p.x.n * p.x.h * p.x.w * p.squeeze_channels;
    Tensor squeeze = call.new_tensor({narrow}, call.scalar()),
           dsqueeze = call.new_tensor({through ? narrow : 0}, call.scalar());
    p.squeeze = squeeze.data_ptr();
    p.dsqueeze = data_or_null(dsqueeze);
    if (needs[0]) p.dx = call.image("dx", dx);
    call.run(p, cuda::fire_train_backward_cuda_workspace, cuda::fire_train_backward_cuda);
  }
  return {dx, grads[0], grads[1], grads[2], grads[3], grads[4], grads[5]};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lightops, LIGHTOPS_CUDA_KEY, m) {
  m.impl("fire_train", TORCH_BOX(&fire_train));
  m.impl("fire_train_backward", TORCH_BOX(&fire_train_backward));
}

}  // namespace cuda_binding
}  // namespace lightops
