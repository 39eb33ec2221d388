// The operators of training, whatever device their kernels are for.
#include <torch/csrc/stable/library.h>

// The arguments of a prologue: act(bn(x)).
#define PROLOGUE "Tensor? mean, Tensor? var, Tensor? gamma, Tensor? beta, float eps, int act"
#define CONVOLUTION "int[2] stride, int[2] padding, int[2] dilation, int groups, bool pool"
#define POOL "int[2] kernel, int[2] stride, int[2] padding, bool ceil_mode"
#define STEM "int[2] stride, int[2] padding, int act, int[2] pool_kernel, int[2] pool_stride, int[2] pool_padding"
#define LAYERS "Tensor?[] params, float[] eps, Tensor?[] frozen, Tensor?[] masks, int growth, int bottleneck, int algo"
#define NORM_GRADIENTS "Tensor dx, Tensor dgamma, Tensor dbeta"

STABLE_TORCH_LIBRARY_FRAGMENT(lightops, m) {
  m.def("batch_stats(Tensor x) -> (Tensor mean, Tensor var)");
  m.def("bn_act(Tensor x, " PROLOGUE ", Tensor? residual) -> Tensor");
  m.def("bn_act_backward(Tensor dy, Tensor x, " PROLOGUE ", bool batch) -> (" NORM_GRADIENTS ")");
  m.def("bn_act_conv2d(Tensor x, " PROLOGUE ", Tensor weight, Tensor? bias, " CONVOLUTION
        ", bool stats) -> (Tensor y, Tensor mean_y, Tensor var_y)");
  m.def("bn_act_conv2d_backward(Tensor dy, Tensor x, " PROLOGUE ", Tensor weight, " CONVOLUTION
        ", bool batch, bool[] needs) -> (" NORM_GRADIENTS ", Tensor dweight, Tensor dbias)");
  m.def("bn_act_max_pool2d(Tensor x, " PROLOGUE ", " POOL ") -> Tensor");
  m.def("bn_act_max_pool2d_backward(Tensor dy, Tensor x, " PROLOGUE ", " POOL ", bool batch) -> (" NORM_GRADIENTS ")");
  m.def("bn_act_mean(Tensor x, " PROLOGUE ") -> Tensor");
  m.def("bn_act_mean_backward(Tensor dy, Tensor x, " PROLOGUE ", bool batch) -> (" NORM_GRADIENTS ")");
  m.def("dense_block_train(Tensor x, Tensor? mean_x, Tensor? var_x, " LAYERS
        ") -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "dense_block_train_backward(Tensor dbuffer, Tensor buffer, Tensor middle, Tensor mean, Tensor var, "
      "Tensor middle_mean, Tensor middle_var, " LAYERS ", bool[] needs) -> (Tensor dx, Tensor[] dparams)");
  m.def("dropout_noise_(Tensor(a!) noise, Tensor(b!) state, float keep, float value) -> ()");
  m.def(
      "fire_train(Tensor x, Tensor ws, Tensor? bs, Tensor w1, Tensor? b1, Tensor w3, Tensor? b3, int algo) -> "
      "Tensor");
  m.def(
      "fire_train_backward(Tensor dout, Tensor x, Tensor out, Tensor ws, Tensor? bs, Tensor w1, Tensor w3, int algo, "
      "bool[] needs) -> (Tensor dx, Tensor dws, Tensor dbs, Tensor dw1, Tensor db1, Tensor dw3, Tensor db3)");
  m.def("stem_train(Tensor x, Tensor weight, Tensor? bias, " STEM ", bool ceil_mode) -> (Tensor out, Tensor places)");
  m.def("stem_train_backward(Tensor dout, Tensor x, Tensor out, Tensor places, Tensor weight, " STEM
        ", bool[] needs) -> (Tensor dx, Tensor dweight, Tensor dbias)");
}
