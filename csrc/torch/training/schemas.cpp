// The operators of training, whatever device their kernels are for.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(lightops, m) {
  m.def("batch_stats(Tensor x) -> (Tensor mean, Tensor var)");
  m.def(
      "bn_act(Tensor x, Tensor? mean, Tensor? var, Tensor? gamma, Tensor? beta, float eps, int act, Tensor? residual) "
      "-> "
      "Tensor");
  m.def(
      "bn_act_backward(Tensor dy, Tensor x, Tensor? mean, Tensor? var, Tensor? gamma, Tensor? beta, float eps, int "
      "act, bool "
      "batch) -> (Tensor dx, Tensor dgamma, Tensor dbeta)");
  m.def(
      "bn_act_conv2d(Tensor x, Tensor? mean, Tensor? var, Tensor? gamma, Tensor? beta, float eps, int act, Tensor "
      "weight, "
      "Tensor? bias, int[2] stride, int[2] padding, int[2] dilation, int groups, bool pool, bool stats) -> (Tensor y, "
      "Tensor mean_y, Tensor var_y)");
  m.def(
      "bn_act_conv2d_backward(Tensor dy, Tensor x, Tensor? mean, Tensor? var, Tensor? gamma, Tensor? beta, float eps, "
      "int act, "
      "Tensor weight, int[2] stride, int[2] padding, int[2] dilation, int groups, bool pool, bool batch, bool[] needs) "
      "-> "
      "(Tensor dx, Tensor dgamma, Tensor dbeta, Tensor dweight, Tensor dbias)");
  m.def(
      "bn_act_max_pool2d(Tensor x, Tensor? mean, Tensor? var, Tensor? gamma, Tensor? beta, float eps, int act, int[2] "
      "kernel, "
      "int[2] stride, int[2] padding, bool ceil_mode) -> Tensor");
  m.def(
      "bn_act_max_pool2d_backward(Tensor dy, Tensor x, Tensor? mean, Tensor? var, Tensor? gamma, Tensor? beta, float "
      "eps, int "
      "act, int[2] kernel, int[2] stride, int[2] padding, bool ceil_mode, bool batch) -> (Tensor dx, Tensor dgamma, "
      "Tensor "
      "dbeta)");
  m.def("bn_act_mean(Tensor x, Tensor? mean, Tensor? var, Tensor? gamma, Tensor? beta, float eps, int act) -> Tensor");
  m.def(
      "bn_act_mean_backward(Tensor dy, Tensor x, Tensor? mean, Tensor? var, Tensor? gamma, Tensor? beta, float eps, "
      "int act, "
      "bool batch) -> (Tensor dx, Tensor dgamma, Tensor dbeta)");
  m.def(
      "dense_block_train(Tensor x, Tensor? mean_x, Tensor? var_x, Tensor?[] params, float[] eps, Tensor?[] frozen, "
      "Tensor?[] masks, int growth, int bottleneck, int algo) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "dense_block_train_backward(Tensor dbuffer, Tensor buffer, Tensor middle, Tensor mean, Tensor var, Tensor "
      "middle_mean, "
      "Tensor middle_var, Tensor?[] params, float[] eps, Tensor?[] frozen, Tensor?[] masks, int growth, int "
      "bottleneck, "
      "int algo, bool[] needs) -> (Tensor dx, Tensor[] dparams)");
  m.def("dropout_noise_(Tensor(a!) noise, Tensor(b!) state, float keep, float value) -> ()");
  m.def(
      "fire_train(Tensor x, Tensor ws, Tensor? bs, Tensor w1, Tensor? b1, Tensor w3, Tensor? b3, int algo) -> Tensor");
  m.def(
      "fire_train_backward(Tensor dout, Tensor x, Tensor out, Tensor ws, Tensor? bs, Tensor w1, Tensor w3, int algo, "
      "bool[] needs) -> (Tensor dx, Tensor dws, Tensor dbs, Tensor dw1, Tensor db1, Tensor dw3, Tensor db3)");
}
