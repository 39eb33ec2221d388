#include "fire.h"

#include <tuple>

namespace lightops {
namespace binding {
namespace {

// A bias in the compute type, or null.
const void* bias_of(const char* op, const char* name, const OptionalTensor& b, const Tensor& x, int64_t channels,
                    std::vector<Tensor>* keep) {
  if (!b.has_value()) return nullptr;
  check_type(op, name, *b, x);
  check_size(op, name, *b, {channels});
  keep->push_back(torch::stable::contiguous(torch::stable::to(*b, compute_type(dtype_of(op, name, *b)))));
  return keep->back().data_ptr();
}

template <class P> int64_t work_of(const P& p, int64_t squeeze) {
  const int64_t expand3 = p.out.c - p.expand1;
  return p.x.n * p.x.h * p.x.w * squeeze * (p.x.c + p.expand1 + 9 * expand3);
}

}  // namespace

Tensor fire_train(Tensor x, Tensor ws, OptionalTensor bs, Tensor w1, OptionalTensor b1, Tensor w3, OptionalTensor b3,
                  int64_t algo) {
  const char* op = "fire_train";
  FireTrainParams p;
  std::vector<Tensor> keep;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  p.algo = train_algo(op, algo);
  check_fire_weights(op, ws, w1, w3);
  const int64_t squeeze = ws.size(0), expand3 = w3.size(0);
  p.expand1 = w1.size(0);
  p.ws = weight_of(op, "ws", ws, x.scalar_type(), {squeeze, p.x.c, 1, 1}, &keep);
  p.w1 = weight_of(op, "w1", w1, x.scalar_type(), {p.expand1, squeeze, 1, 1}, &keep);
  p.w3 = weight_of(op, "w3", w3, x.scalar_type(), {expand3, squeeze, 3, 3}, &keep);
  p.bs = bias_of(op, "bs", bs, x, squeeze, &keep);
  p.b1 = bias_of(op, "b1", b1, x, p.expand1, &keep);
  p.b3 = bias_of(op, "b3", b3, x, expand3, &keep);
  Tensor out = new_image(p.x.n, p.expand1 + expand3, p.x.h, p.x.w, x.scalar_type());
  if (out.numel() == 0) return out;
  p.out = image_of(op, "out", out);
  p.squeeze = squeeze;
  p.parallel = parallel_for_work(work_of(p, squeeze));
  p.workspace = workspace(fire_train_workspace(p));
  fire_train_cpu(p);
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> fire_train_backward(Tensor dout, Tensor x,
                                                                                       Tensor out, Tensor ws,
                                                                                       OptionalTensor bs, Tensor w1,
                                                                                       Tensor w3, int64_t algo,
                                                                                       std::vector<bool> needs) {
  const char* op = "fire_train_backward";
  FireTrainBackwardParams p;
  std::vector<Tensor> keep;
  p.x = image_of(op, "x", x);
  p.type = dtype_of(op, "x", x);
  const ScalarType scalar = x.scalar_type(), compute = compute_type(p.type);
  p.algo = train_algo(op, algo);
  check_fire_weights(op, ws, w1, w3);
  const int64_t channels = ws.size(0), expand3 = w3.size(0);
  p.expand1 = w1.size(0);
  p.ws = weight_of(op, "ws", ws, scalar, {channels, p.x.c, 1, 1}, &keep);
  p.w1 = weight_of(op, "w1", w1, scalar, {p.expand1, channels, 1, 1}, &keep);
  p.w3 = weight_of(op, "w3", w3, scalar, {expand3, channels, 3, 3}, &keep);
  check_type(op, "dout", dout, x);
  check_type(op, "out", out, x);
  check_size(op, "dout", dout, {p.x.n, p.expand1 + expand3, p.x.h, p.x.w});
  check_size(op, "out", out, {p.x.n, p.expand1 + expand3, p.x.h, p.x.w});
  p.dout = image_of(op, "dout", dout);
  p.out = image_of(op, "out", out);
  p.bs = bias_of(op, "bs", bs, x, channels, &keep);
  p.squeeze_channels = channels;
  STD_TORCH_CHECK(needs.size() == 7, "lightops::", op, ": 'needs' must hold 7 flags: x, ws, bs, w1, b1, w3, b3");

  Tensor dx = needs[0] ? new_image(p.x.n, p.x.c, p.x.h, p.x.w, scalar) : new_vector(0, scalar);
  std::vector<Tensor> grads =
      fire_gradients(ws, w1, w3, needs, [&](const Ints& size) { return new_tensor(size, compute); });
  if (dout.numel() == 0) {
    for (Tensor& g : grads) torch::stable::zero_(g);
  } else {
    place_gradients(grads, &p);
    const bool through = needs[0] || needs[1] || needs[2];
    const int64_t narrow = p.x.n * p.x.h * p.x.w * channels;
    Tensor squeeze = new_vector(narrow, compute), dsqueeze = new_vector(through ? narrow : 0, compute);
    p.squeeze = squeeze.data_ptr();
    p.dsqueeze = data_or_null(dsqueeze);
    if (needs[0]) p.dx = image_of(op, "dx", dx);
    p.parallel = parallel_for_work(2 * work_of(p, channels));
    p.workspace = workspace(fire_train_backward_workspace(p));
    fire_train_backward_cpu(p);
  }
  if (scalar != compute)
    for (Tensor& g : grads) g = torch::stable::to(g, scalar);
  return {dx, grads[0], grads[1], grads[2], grads[3], grads[4], grads[5]};
}

STABLE_TORCH_LIBRARY_IMPL(lightops, CPU, m) {
  m.impl("fire_train", TORCH_BOX(&fire_train));
  m.impl("fire_train_backward", TORCH_BOX(&fire_train_backward));
}

}  // namespace binding
}  // namespace lightops
