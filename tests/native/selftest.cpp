// Every CPU kernel against plain loops, in float, double and bfloat16 (also by pairs), on one and on four tasks, with poisoned outputs and
// guards. The inputs are small whole numbers, so what comes out must be equal, not close. No torch, no Python: this is
// what runs where neither is to be had (make native, make aarch64, sanitizers). LIGHTOPS_CPU_ISA picks the kernels.

#include "kernels.h"
#include "lightops/dispatch.h"
#include "reference.h"

namespace selftest {

using lightops::Algo;

int passed = 0, failed = 0;

void report(bool good, const std::string& name) {
  ++(good ? passed : failed);
  if (!good) std::printf("FAILED %s\n", name.c_str());
}

struct Case {
  int64_t n, h, w, c, o;
  int threads;
  std::string text;
};

template <class T> const char* type_name() {
  if (kPairs<T>) return "bf16 pairs";
  return TypeOf<T>::value == DType::f32 ? "f32" : TypeOf<T>::value == DType::f64 ? "f64" : "bf16";
}

// What the kernel's type makes of the exact result: it is rounded once, at the store.
template <class T> bool equal(const Map& got, const Map& want) {
  if (got.values.size() != want.values.size()) return false;
  for (size_t i = 0; i < got.values.size(); ++i)
    if (got.values[i] != double(T(want.values[i]))) return false;
  return true;
}

template <class T> void finish(bool launched, Buffer<T>& out, const Map& want, const char* op, const Case& k) {
  report(launched && out.outside_untouched() && equal<T>(out.read(), want),
         std::string(op) + " " + type_name<T>() + " " + k.text);
}

template <class T, class Params> void common(Params& p, const Case& k) {
  p.type = TypeOf<T>::value;
  if constexpr (kPairs<T> && !std::is_same<Params, lightops::MaxPool2dParams>::value) p.pairs = true;
  p.parallel = parallel(k.threads);
}

template <class T> void test_conv1x1(Random& r, const Case& k) {
  const Map x = random_map(r, k.n, k.h, k.w, k.c), residual = random_map(r, k.n, k.h, k.w, k.o);
  const Weights w = random_weights(r, k.o, k.c);
  const auto bias = random_vector(r, k.o);
  const auto packed = pack<T>(w), bias_t = cast<T>(bias);
  for (Act act : {Act::none, Act::relu, Act::relu6}) {
    auto in = Buffer<T>::input(x, 4), res = Buffer<T>::input(residual), out = Buffer<T>::output(k.n, k.h, k.w, k.o, 6);
    lightops::Conv1x1BnActParams p;
    common<T>(p, k);
    p.x = in.view(), p.out = out.view(), p.residual = res.view();
    p.weight = packed.data(), p.bias = bias_t.data(), p.act = act;
    const bool ok = launch(p, lightops::conv1x1_bn_act_workspace, lightops::conv1x1_bn_act_cpu);
    finish(ok, out, add(affine(conv(x, w), {}, bias, act), residual), "conv1x1_bn_act", k);
  }
}

template <class T>
void test_bn_relu_conv(Random& r, const Case& k, const Window& g, Algo algo, const std::string& variant) {
  const Map x = random_map(r, k.n, k.h, k.w, k.c);
  if (g.out(0, k.h) < 1 || g.out(1, k.w) < 1) return;
  const Weights w = random_weights(r, k.o, k.c, g.kernel[0], g.kernel[1]);
  const auto scale = random_vector(r, k.c, 2), shift = random_vector(r, k.c), bias = random_vector(r, k.o);
  const auto packed = pack<T>(w, algo), scale_t = cast<T>(scale), shift_t = cast<T>(shift), bias_t = cast<T>(bias);
  auto in = Buffer<T>::input(x, 8), out = Buffer<T>::output(k.n, g.out(0, k.h), g.out(1, k.w), k.o, 10);
  lightops::BnReluConv2dParams p;
  common<T>(p, k);
  p.x = in.view(), p.out = out.view(), p.window = g, p.algo = algo;
  p.scale = scale_t.data(), p.shift = shift_t.data(), p.weight = packed.data(), p.bias = bias_t.data();
  p.act = Act::relu;
  const bool ok = launch(p, lightops::bn_relu_conv2d_workspace, lightops::bn_relu_conv2d_cpu);
  const Map want = affine(conv(affine(x, scale, shift, Act::relu), w, g), {}, bias, Act::relu);
  finish(ok, out, want, ("bn_relu_conv2d " + variant).c_str(), k);
}

template <class T> void test_depthwise_pointwise(Random& r, const Case& k, int64_t kernel, int64_t stride) {
  const Window g = window(kernel, stride, kernel / 2);
  const Map x = random_map(r, k.n, k.h, k.w, k.c);
  const Weights dw = random_weights(r, k.c, 1, kernel, kernel), pw = random_weights(r, k.o, k.c);
  const auto dw_bias = random_vector(r, k.c), pw_bias = random_vector(r, k.o);
  const auto dw_t = pack_depthwise<T>(dw), pw_t = pack<T>(pw), dw_bias_t = cast<T>(dw_bias),
             pw_bias_t = cast<T>(pw_bias);
  auto in = Buffer<T>::input(x, 2), out = Buffer<T>::output(k.n, g.out(0, k.h), g.out(1, k.w), k.o, 4);
  lightops::DepthwisePointwiseParams p;
  common<T>(p, k);
  p.x = in.view(), p.out = out.view(), p.window = g;
  p.dw = dw_t.data(), p.dw_bias = dw_bias_t.data(), p.pw = pw_t.data(), p.pw_bias = pw_bias_t.data();
  p.dw_act = Act::relu6, p.pw_act = Act::none;
  const bool ok = launch(p, lightops::depthwise_pointwise_workspace, lightops::depthwise_pointwise_cpu);
  const Map middle = affine(conv(x, dw, g), {}, dw_bias, Act::relu6);
  finish(ok, out, affine(conv(middle, pw), {}, pw_bias, Act::none), "depthwise_pointwise", k);
}

template <class T> void test_inverted_residual(Random& r, const Case& k, int64_t stride) {
  const Window g = window(3, stride, 1);
  const int64_t hidden = 3 * k.c;
  const bool residual = stride == 1;
  const int64_t o = residual ? k.c : k.o;
  const Map x = random_map(r, k.n, k.h, k.w, k.c);
  const Weights ex = random_weights(r, hidden, k.c), dw = random_weights(r, hidden, 1, 3, 3);
  const Weights pw = random_weights(r, o, hidden);
  const auto ex_bias = random_vector(r, hidden), dw_bias = random_vector(r, hidden), pw_bias = random_vector(r, o);
  const auto ex_t = pack<T>(ex), dw_t = pack_depthwise<T>(dw), pw_t = pack<T>(pw);
  const auto ex_bias_t = cast<T>(ex_bias), dw_bias_t = cast<T>(dw_bias), pw_bias_t = cast<T>(pw_bias);
  auto in = Buffer<T>::input(x), out = Buffer<T>::output(k.n, g.out(0, k.h), g.out(1, k.w), o, 4);
  lightops::InvertedResidualParams p;
  common<T>(p, k);
  p.x = in.view(), p.out = out.view(), p.window = g, p.hidden = hidden, p.residual = residual;
  p.ex = ex_t.data(), p.ex_bias = ex_bias_t.data(), p.dw = dw_t.data(), p.dw_bias = dw_bias_t.data();
  p.pw = pw_t.data(), p.pw_bias = pw_bias_t.data();
  const bool ok = launch(p, lightops::inverted_residual_workspace, lightops::inverted_residual_cpu);
  const Map wide = affine(conv(x, ex), {}, ex_bias, Act::relu6);
  const Map want = affine(conv(affine(conv(wide, dw, g), {}, dw_bias, Act::relu6), pw), {}, pw_bias, Act::none);
  finish(ok, out, residual ? add(want, x) : want, "inverted_residual", k);
}

template <class T> void test_fire(Random& r, const Case& k, Algo algo) {
  const int64_t squeeze = kPairs<T> ? (k.c + 7) / 8 * 2 : (k.c + 3) / 4, half = k.o;
  const Map x = random_map(r, k.n, k.h, k.w, k.c), bypass = random_map(r, k.n, k.h, k.w, 2 * half);
  const Weights sq = random_weights(r, squeeze, k.c), e1 = random_weights(r, half, squeeze);
  const Weights e3 = random_weights(r, half, squeeze, 3, 3);
  const auto sq_bias = random_vector(r, squeeze), e1_bias = random_vector(r, half), e3_bias = random_vector(r, half);
  const auto sq_t = pack<T>(sq), e1_t = pack<T>(e1), e3_t = pack<T>(e3, algo);
  const auto sq_bias_t = cast<T>(sq_bias), e1_bias_t = cast<T>(e1_bias), e3_bias_t = cast<T>(e3_bias);
  for (bool with_bypass : {false, true}) {
    auto in = Buffer<T>::input(x), by = Buffer<T>::input(bypass), out = Buffer<T>::output(k.n, k.h, k.w, 2 * half, 4);
    lightops::FireParams p;
    common<T>(p, k);
    p.x = in.view(), p.out = out.view(), p.algo = algo;
    p.squeeze = sq_t.data(), p.squeeze_bias = sq_bias_t.data(), p.squeeze_channels = squeeze;
    p.expand1 = e1_t.data(), p.expand1_bias = e1_bias_t.data(), p.expand1_channels = half;
    p.expand3 = e3_t.data(), p.expand3_bias = e3_bias_t.data(), p.expand3_channels = half;
    if (with_bypass) p.bypass = by.view();
    const bool ok = launch(p, lightops::fire_workspace, lightops::fire_cpu);
    const Map s = affine(conv(x, sq), {}, sq_bias, Act::relu);
    const Map want = concat(affine(conv(s, e1), {}, e1_bias, Act::relu),
                            affine(conv(s, e3, window(3, 1, 1)), {}, e3_bias, Act::relu));
    finish(ok, out, with_bypass ? add(want, bypass) : want, "fire", k);
  }
}

// bfloat16 keeps each layer's channels in the buffer, so later layers read rounded values: one layer stays exact.
template <class T> void test_dense_block(Random& r, const Case& k, int64_t bottleneck, Algo algo) {
  const int64_t growth = 5, layers = sizeof(T) == 2 ? 1 : 2;
  const Map x = random_map(r, k.n, k.h, k.w, k.c);
  Map want = x;
  std::vector<lightops::DenseLayerWeights> weights;
  std::vector<std::vector<typename TypeOf<T>::Weight>> keep;
  keep.reserve(size_t(5 * layers));
  auto hold = [&](std::vector<typename TypeOf<T>::Weight> v) { return keep.emplace_back(std::move(v)).data(); };
  for (int64_t l = 0; l < layers; ++l) {
    const int64_t c = want.c;
    const auto scale = random_vector(r, c, 1), shift = random_vector(r, c, 2), bias1 = random_vector(r, bottleneck);
    const Weights w1 = random_weights(r, bottleneck, c),
                  w2 = random_weights(r, growth, bottleneck ? bottleneck : c, 3, 3);
    lightops::DenseLayerWeights d;
    d.scale = hold(cast<T>(scale)), d.shift = hold(cast<T>(shift)), d.weight2 = hold(pack<T>(w2, algo));
    Map middle = affine(want, scale, shift, Act::relu);
    if (bottleneck) {
      d.weight1 = hold(pack<T>(w1)), d.bias1 = hold(cast<T>(bias1));
      middle = affine(conv(middle, w1), {}, bias1, Act::relu);
    }
    weights.push_back(d);
    want = concat(want, conv(middle, w2, window(3, 1, 1)));
  }
  Map start = want;
  for (size_t i = 0; i < start.values.size(); ++i)
    if (int64_t(i) % want.c >= k.c) start.values[i] = std::numeric_limits<double>::quiet_NaN();
  auto buffer = Buffer<T>::input(start);
  lightops::DenseBlockParams p;
  common<T>(p, k);
  p.buffer = buffer.view(), p.in_channels = k.c, p.growth = growth, p.bottleneck = bottleneck, p.layers = layers;
  p.weights = weights.data(), p.algo = algo;
  const bool ok = launch(p, lightops::dense_block_workspace, lightops::dense_block_cpu);
  finish(ok, buffer, want, bottleneck ? "dense_block bottleneck" : "dense_block", k);
}

template <class T> void test_transition(Random& r, const Case& k) {
  if (k.h < 2 || k.w < 2) return;
  const Map x = random_map(r, k.n, k.h, k.w, k.c);
  const Weights w = random_weights(r, k.o, k.c);
  const auto scale = random_vector(r, k.c, 2), shift = random_vector(r, k.c), bias = random_vector(r, k.o);
  const auto packed = pack<T>(w), scale_t = cast<T>(scale), shift_t = cast<T>(shift), bias_t = cast<T>(bias);
  auto in = Buffer<T>::input(x), out = Buffer<T>::output(k.n, k.h / 2, k.w / 2, k.o, 12);
  lightops::TransitionParams p;
  common<T>(p, k);
  p.x = in.view(), p.out = out.view(), p.weight = packed.data(), p.bias = bias_t.data();
  p.scale = scale_t.data(), p.shift = shift_t.data();
  const bool ok = launch(p, lightops::transition_workspace, lightops::transition_cpu);
  const Map want = affine(conv(average_pool2(affine(x, scale, shift, Act::relu)), w), {}, bias, Act::none);
  finish(ok, out, want, "transition", k);
}

template <class T> void test_stem(Random& r, const Case& k, bool pooled) {
  const Window g = window(3, 2, 1), pool = window(3, 2, 1);
  const Map x = random_map(r, k.n, k.h, k.w, 3);
  const Weights w = random_weights(r, k.o, 3, 3, 3);
  const auto bias = random_vector(r, k.o);
  const auto packed = pack<T>(w), bias_t = cast<T>(bias);
  Map want = affine(conv(x, w, g), {}, bias, Act::relu);
  if (pooled) want = max_pool(want, pool);
  auto in = Buffer<T>::input(x), out = Buffer<T>::output(want.n, want.h, want.w, want.c, 2);
  lightops::StemParams p;
  common<T>(p, k);
  p.x = in.view(), p.out = out.view(), p.weight = packed.data(), p.bias = bias_t.data(), p.window = g;
  p.pooled = pooled, p.pool = pool;
  const bool ok = launch(p, lightops::stem_workspace, lightops::stem_cpu);
  finish(ok, out, want, pooled ? "stem with pool" : "stem", k);
}

template <class T> void test_max_pool(Random& r, const Case& k, const Window& g) {
  if (g.out(0, k.h) < 1 || g.out(1, k.w) < 1) return;
  const Map x = random_map(r, k.n, k.h, k.w, k.c), want = max_pool(x, g);
  auto in = Buffer<T>::input(x, 6), out = Buffer<T>::output(want.n, want.h, want.w, want.c, 2);
  lightops::MaxPool2dParams p;
  common<T>(p, k);
  p.x = in.view(), p.out = out.view(), p.window = g;
  const bool ok = launch(p, lightops::max_pool2d_workspace, lightops::max_pool2d_cpu);
  finish(ok, out, want, "max_pool2d", k);
}

// 4 x 4 pixels: a mean over sixteen whole numbers is exact.
template <class T> void test_head(Random& r, const Case& k, bool linear) {
  const Map x = random_map(r, k.n, 4, 4, k.c);
  const Weights w = random_weights(r, k.o, k.c);
  const auto scale = random_vector(r, k.c, 2), shift = random_vector(r, k.c), bias = random_vector(r, k.o);
  const auto packed = pack<T>(w), scale_t = cast<T>(scale), shift_t = cast<T>(shift), bias_t = cast<T>(bias);
  Map want = mean_of_pixels(affine(x, scale, shift, Act::relu));
  if (linear) want = affine(conv(want, w), {}, bias, Act::none);
  auto in = Buffer<T>::input(x), out = Buffer<T>::output(k.n, 1, 1, want.c);
  lightops::HeadParams p;
  common<T>(p, k);
  p.x = in.view(), p.scale = scale_t.data(), p.shift = shift_t.data(), p.act = Act::relu;
  if (linear) p.weight = packed.data(), p.bias = bias_t.data();
  p.out_features = want.c, p.out = out.view().data;
  const bool ok = launch(p, lightops::head_workspace, lightops::head_cpu);
  finish(ok, out, want, linear ? "head with linear" : "head", k);
}

template <class T> void test_all(Random& r, const Case& k) {
  test_conv1x1<T>(r, k);
  test_bn_relu_conv<T>(r, k, window(1, 1, 0), Algo::direct, "1x1");
  test_bn_relu_conv<T>(r, k, window(3, 1, 1), Algo::direct, "3x3");
  test_bn_relu_conv<T>(r, k, window(3, 2, 1), Algo::direct, "3x3 stride 2");
  test_bn_relu_conv<T>(r, k, window(3, 1, 2, 2), Algo::direct, "3x3 dilation 2");
  if (!kPairs<T>) test_bn_relu_conv<T>(r, k, window(3, 1, 1), Algo::winograd2, "Winograd F(2x2, 3x3)");
  for (int64_t stride : {1, 2}) {
    test_depthwise_pointwise<T>(r, k, 3, stride);
    test_depthwise_pointwise<T>(r, k, 5, stride);
    test_inverted_residual<T>(r, k, stride);
  }
  for (Algo algo : {Algo::direct, Algo::winograd2}) {
    if (kPairs<T> && algo != Algo::direct) continue;
    test_fire<T>(r, k, algo);
    test_dense_block<T>(r, k, 8, algo);
    test_dense_block<T>(r, k, 0, algo);
  }
  test_transition<T>(r, k);
  for (const Window& g : {window(3, 2, 0), window(3, 2, 1), window(2, 2, 0), window(3, 1, 1)})
    test_max_pool<T>(r, k, g);
  for (bool flag : {false, true}) {
    test_stem<T>(r, k, flag);
    test_head<T>(r, k, flag);
  }
}

}  // namespace selftest

int main() {
  using namespace selftest;
  std::printf("instruction set %s (%s)\n", lightops::isa_name(), lightops::isa_reason());
  const char* wanted = std::getenv("LIGHTOPS_CPU_ISA");
  if (wanted && lightops::cpu_supports(wanted))
    report(!std::strcmp(wanted, lightops::isa_name()), "picks the asked one");

  // Channels about the panel of 32 and its halves, maps about the row tiles, one pixel, more tasks than rows.
  const int64_t shapes[][5] = {{1, 1, 1, 2, 1},   {1, 2, 3, 3, 5},   {2, 5, 7, 8, 16},   {1, 7, 7, 17, 33},
                               {1, 14, 9, 32, 8}, {3, 4, 4, 40, 65}, {1, 17, 15, 24, 31}};
  Random random;
  for (const auto& s : shapes)
    for (int threads : {1, 4}) {
      Case k{s[0], s[1], s[2], s[3], s[4], threads, ""};
      k.text = "n" + std::to_string(k.n) + " " + std::to_string(k.h) + "x" + std::to_string(k.w) + " " +
               std::to_string(k.c) + "->" + std::to_string(k.o) + " threads " + std::to_string(threads);
      test_all<float>(random, k);
      test_all<double>(random, k);
      test_all<Bf16>(random, k);
      if (lightops::isa_reads_pairs() && k.c % 2 == 0) test_all<PairedBf16>(random, k);
    }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
