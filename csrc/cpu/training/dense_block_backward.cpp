#include <math.h>

#include "engine/entry.h"
#include "engine/pointwise.h"
#include "engine/prologue_grad.h"
#include "training/dense_backward_plan.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// A layer is undone in two phases, because the batch norm between its convolutions needs sums over the batch: the 3x3 over
// strips of rows, then the 1x1 over chunks of pixels. In each, the gradient of the input and of the weight are taken from
// one load of dy and of the activations, which are recomputed from the raw tensors. Pixels are cut into slices by the sizes
// alone; each slice has sums and weight gradients of its own, merged in order.
template <class C> struct Body : DenseBackwardPlan<C> {
  using Plan = DenseBackwardPlan<C>;
  using Plan::b, Plan::channels3, Plan::chunks, Plan::common, Plan::dgrad3, Plan::dmiddle, Plan::f, Plan::gradient,
      Plan::groups, Plan::own, Plan::p, Plan::padded_width, Plan::part3, Plan::pixels, Plan::prefix, Plan::slices1,
      Plan::slices3, Plan::strips, Plan::tasks, Plan::wgrad3;
  using typename Plan::Common;
  using typename Plan::Own;
  using typename Plan::Params;
  using typename Plan::Vectors;

  explicit Body(const Params& params) : Plan(params) {}

  int64_t workspace() const { return common().bytes + tasks * own(nullptr).bytes; }

  static NormView<C> view(const Vectors& v, const Norm& norm) {
    return {v.scale, v.shift, static_cast<const C*>(norm.mean)};
  }

  // The gradient so far at channel c of pixel 0: the caller's for the layer that is undone first.
  const void* source(int64_t layer, int64_t n, int64_t pixel, int64_t c) const {
    if (layer == f.layers - 1) return at(p.dbuffer.data, p.type, n * p.dbuffer.image + pixel * p.dbuffer.pixel + c);
    return gradient + (n * b.h * b.w + pixel) * b.c + c;
  }
  DType source_type(int64_t layer) const { return layer == f.layers - 1 ? p.type : compute_type<C>; }
  int64_t source_stride(int64_t layer) const { return layer == f.layers - 1 ? p.dbuffer.pixel : b.c; }

  // Whether a layer from this one on takes statistics of the batch from the buffer. Where none does, the batch's mean, which
  // is there all the same, has no part in the gradient.
  bool batch_from(int64_t layer) const {
    while (layer < f.layers && !f.layer[layer].norm1.batch) ++layer;
    return layer < f.layers;
  }

  void pack(int64_t layer, const Common& s) const {
    const DenseTrainLayer& l = f.layer[layer];
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share one = share(f.bottleneck, task, tasks, 8), three = share(f.growth, task, tasks, 8);
      if (f.bottleneck)
        pack_panels1x1(transposed_view<C>(l.weight1, prefix(layer), f.bottleneck), one.first, one.last, s.weight1);
      pack_panels3x3(transposed_view<C>(l.weight2, channels3(layer), f.growth), f.algo, three.first, three.last,
                     s.weight2);
    });
  }

  // dy of the 3x3, rows [top, top + count) with a zero pixel on both sides: the layer's own channels of the gradient, made
  // whole, times the dropout mask.
  void load_dy(int64_t layer, int64_t n, int64_t top, int64_t count, const Common& s, C* out) const {
    const Nhwc& mask = f.layer[layer].mask;
    const int64_t row = padded_width * f.growth, first = prefix(layer);
    for (int64_t y = top; y < top + count; ++y, out += row) {
      if (y < 0 || y >= b.h) {
        memset(out, 0, size_t(row) * sizeof(C));
        continue;
      }
      memset(out, 0, size_t(f.growth) * sizeof(C));
      Corrected<C> k;
      k.g = source(layer, n, y * b.w, first);
      k.g_type = source_type(layer);
      k.g_stride = source_stride(layer);
      k.x = at(b.data, p.type, n * b.image + y * b.row() + first);
      k.type = p.type;
      k.x_stride = b.pixel;
      k.mean = static_cast<const C*>(f.mean) + first;
      k.b = batch_from(layer + 1) ? s.own_b : nullptr;
      k.d = s.own_d;
      if (mask.data) k.mask = at(mask.data, p.type, n * mask.image + y * mask.row());
      k.mask_stride = mask.pixel;
      k.out = out + f.growth;
      k.out_type = compute_type<C>;
      k.out_stride = f.growth;
      k.pixels = b.w;
      k.channels = f.growth;
      corrected(k);
      memset(out + row - f.growth, 0, size_t(f.growth) * sizeof(C));
    }
  }

  void back3(int64_t layer, const Common& s, char* base) const {
    const DenseTrainLayer& l = f.layer[layer];
    const int64_t channels = channels3(layer), panels = ceil_div(channels, kPanel), part = part3(layer);
    const int64_t slices = slices3(layer), parts = groups(slices, channels);
    const Strips all = strips(layer);
    const Norm& norm = f.bottleneck ? l.norm2 : l.norm1;
    const Vectors& v = f.bottleneck ? s.norm2 : s.norm1;
    affine_of<C>(norm, channels, v.scale, v.shift);
    take_own(prefix(layer), f.growth, s);
    Nhwc x = b;
    if (f.bottleneck) {
      x.data = at(f.middle, p.type, layer * pixels * f.bottleneck);
      x.pixel = f.bottleneck;
      x.image = b.h * b.w * f.bottleneck;
    }
    const bool weight = p.gradients[layer].weight2 != nullptr;
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Own mine = own(base + task * own(nullptr).bytes);
      const Share some = share(slices * parts, task, tasks);
      for (int64_t unit = some.first; unit < some.last; ++unit) {
        const int64_t slice = unit / parts;
        const Share panel = share(panels, unit % parts, parts);
        const int64_t first = panel.first * kPanel,
                      last = panel.last * kPanel < channels ? panel.last * kPanel : channels;
        Nhwc in = x;
        in.data = at(x.data, p.type, first);
        in.c = last - first;
        const Prologue<C> prologue{v.scale + first, v.shift + first, Act::relu};
        Wgrad3x3<C> w = wgrad3(layer, in.c);
        w.sums = s.dweight3 + slice * part + first * f.growth;
        w.scratch = mine.domain;
        if (weight)
          for (int64_t i = 0; i < w.planes(); ++i)
            memset(w.sums + i * w.sum_plane, 0, size_t(in.c * f.growth) * sizeof(C));
        const Share strip = share(all.count(), slice, slices);
        for (int64_t i = strip.first; i < strip.last; ++i) {
          const int64_t n = all.image(i);
          const Share rows = all.range(i);
          load_dy(layer, n, rows.first - 1, rows.size() + 2, s, mine.dy);
          input_gradient3(layer, n, rows, in, first, view(v, norm), s, mine, s.sums3 + i * 2 * channels);
          if (!weight) continue;
          for (int64_t y = 0; y < rows.size() + 2; ++y)
            load_padded_row<C>(in, p.type, n, rows.first - 1 + y, 1, prologue, mine.strip + y * padded_width * in.c);
          wgrad3x3_strip(&w, mine.strip, mine.dy + (padded_width + 1) * f.growth, padded_width * f.growth, rows.size(),
                         b.w);
        }
        if (weight) wgrad3x3_flush(&w);
      }
    });
    finish_norm(norm, channels, s.sums3, all.count(), layer, v, f.bottleneck > 0, s);
    if (weight) store_weight3(layer, channels, slices, part, s);
  }

  // du of one strip, of the channels of x (which start at channel `first`), masked; and its sums. With a bottleneck a * dz
  // goes to dmiddle, else it is added to the prefix.
  void input_gradient3(int64_t layer, int64_t n, Share rows, const Nhwc& x, int64_t first, const NormView<C>& norm,
                       const Common& s, const Own& mine, C* sums) const {
    const int64_t pixel = rows.first * b.w, channels = channels3(layer);
    StripConv<C> c = dgrad3(layer);
    c.in = mine.dy;
    c.in_rows = rows.size() + 2;
    c.rows = rows.size();
    c.weights = s.weight2;
    c.scratch = mine.winograd;
    C* du = f.bottleneck ? dmiddle + (n * b.h * b.w + pixel) * f.bottleneck : mine.du;
    c.out = du;
    conv_strip(c, first / kPanel, ceil_div(first + x.c, kPanel));
    memset(sums + first, 0, size_t(x.c) * sizeof(C));
    memset(sums + channels + first, 0, size_t(x.c) * sizeof(C));
    MaskedAdd<C> m;
    m.du = du + first;
    m.du_stride = channels;
    m.x = at(x.data, p.type, n * x.image + pixel * x.pixel);
    m.type = p.type;
    m.x_stride = x.pixel;
    m.norm = norm.at(first);
    m.base_type = compute_type<C>;
    if (f.bottleneck) {
      m.out = du + first;
      m.out_stride = channels;
    } else {
      m.base = source(layer, n, pixel, first);
      m.base_type = source_type(layer);
      m.base_stride = source_stride(layer);
      m.out = gradient + (n * b.h * b.w + pixel) * b.c + first;
      m.out_stride = b.c;
    }
    m.pixels = rows.size() * b.w;
    m.channels = x.c;
    m.sum = sums + first;
    m.product = sums + channels + first;
    masked_add(m);
  }

  void store_weight3(int64_t layer, int64_t channels, int64_t slices, int64_t part, const Common& s) const {
    Wgrad3x3<C> w = wgrad3(layer, channels);
    w.sums = s.dweight3;
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share mine = share(channels, task, tasks);
      if (mine.size() == 0) return;
      for (int64_t i = 0; i < w.planes(); ++i)
        merge_parts(s.dweight3, slices, part, i * w.sum_plane + mine.first * f.growth,
                    i * w.sum_plane + mine.last * f.growth);
      wgrad3x3_store(w, mine.first, mine.last, static_cast<C*>(p.gradients[layer].weight2));
    });
  }

  void back1(int64_t layer, const Common& s, char* base) const {
    const DenseTrainLayer& l = f.layer[layer];
    const int64_t channels = prefix(layer), panels = ceil_div(channels, kPanel);
    affine_of<C>(l.norm1, channels, s.norm1.scale, s.norm1.shift);
    C* whole = static_cast<C*>(p.gradients[layer].weight1);
    const bool weight = whole != nullptr;
    const int64_t parts = groups(slices1, channels);
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Own mine = own(base + task * own(nullptr).bytes);
      const Share some = share(slices1 * parts, task, tasks);
      for (int64_t unit = some.first; unit < some.last; ++unit) {
        const int64_t slice = unit / parts;
        const Share panel = share(panels, unit % parts, parts);
        const int64_t first = panel.first * kPanel,
                      last = panel.last * kPanel < channels ? panel.last * kPanel : channels;
        C* sums = s.sums1 + slice * 2 * channels;
        C* dweight = slices1 > 1 ? s.dweight1 + slice * f.bottleneck * channels : whole;
        memset(sums + first, 0, size_t(last - first) * sizeof(C));
        memset(sums + channels + first, 0, size_t(last - first) * sizeof(C));
        if (weight)
          for (int64_t o = 0; o < f.bottleneck; ++o)
            memset(dweight + o * channels + first, 0, size_t(last - first) * sizeof(C));
        const Share chunk = share(chunks.count, slice, slices1);
        for (int64_t i = chunk.first; i < chunk.last; ++i) {
          load_dy1(layer, chunks[i], s, mine);
          for (int64_t k = panel.first; k < panel.last; ++k)
            back1_panel(layer, chunks[i], k, s, mine, sums, weight ? dweight : nullptr);
        }
      }
    });
    finish_norm(l.norm1, channels, s.sums1, slices1, layer, s.norm1, false, s);
    if (weight && slices1 > 1)
      for_tasks(p.parallel, tasks, [&](int64_t task) {
        const int64_t size = f.bottleneck * channels;
        const Share mine = share(size, task, tasks, kLanes<C>);
        merge_parts(s.dweight1, slices1, size, mine.first, mine.last);
        memcpy(whole + mine.first, s.dweight1 + mine.first, size_t(mine.size()) * sizeof(C));
      });
  }

  void load_dy1(int64_t layer, Share px, const Common& s, const Own& mine) const {
    Corrected<C> k;
    k.g = dmiddle + px.first * f.bottleneck;
    k.g_type = compute_type<C>;
    k.g_stride = f.bottleneck;
    k.x = at(f.middle, p.type, (layer * pixels + px.first) * f.bottleneck);
    k.type = p.type;
    k.x_stride = f.bottleneck;
    k.mean = static_cast<const C*>(f.layer[layer].norm2.mean);
    k.b = f.layer[layer].norm2.batch ? s.norm2.b : nullptr;
    k.d = s.norm2.d;
    k.out = mine.dy1;
    k.out_type = compute_type<C>;
    k.out_stride = f.bottleneck;
    k.pixels = px.size();
    k.channels = f.bottleneck;
    corrected(k);
  }

  // One panel of input channels of the 1x1, over one chunk of pixels.
  void back1_panel(int64_t layer, Share px, int64_t panel, const Common& s, const Own& mine, C* sums,
                   C* dweight) const {
    const int64_t channels = prefix(layer), first = panel * kPanel;
    const int64_t width = channels - first < kPanel ? channels - first : kPanel;
    const void* x = at(b.data, p.type, px.first * b.pixel + first);
    Gemm<C> g;
    g.inner = px.size();
    g.a = mine.dy1;
    g.a_inner = g.length = f.bottleneck;
    g.b = s.weight1 + panel * f.bottleneck * kPanel;
    g.outputs = width;
    g.out = mine.du;
    g.out_type = compute_type<C>;
    g.out_inner = width;
    gemm(g);
    if (dweight) {
      load_pixels<C>(x, p.type, b.pixel, px.size(), width, {s.norm1.scale + first, s.norm1.shift + first, Act::relu},
                     mine.u);
      Wgrad<C> w;
      w.inner = px.size();
      w.dy = mine.dy1;
      w.dy_inner = w.outputs = f.bottleneck;
      w.u = mine.u;
      w.u_inner = w.channels = width;
      w.slack = true;
      w.dw = dweight + first;
      w.dw_row = channels;
      wgrad(w);
    }
    MaskedAdd<C> m;
    m.du = mine.du;
    m.du_stride = width;
    m.x = x;
    m.type = p.type;
    m.x_stride = b.pixel;
    m.norm = view(s.norm1, f.layer[layer].norm1).at(first);
    m.base_type = source_type(layer);
    m.base_stride = source_stride(layer);
    m.base = source(layer, 0, px.first, first);
    m.out = gradient + px.first * b.c + first;
    m.out_stride = b.c;
    m.pixels = px.size();
    m.channels = width;
    m.sum = sums + first;
    m.product = sums + channels + first;
    m.ahead = first + kPanel < channels;
    masked_add(m);
  }

  // From the sums of all parts: the gradients of gamma and beta, and the coefficients of dx. Those of a norm that reads the
  // buffer are added to what its channels have so far; the second norm's are kept for load_dy1.
  void finish_norm(const Norm& norm, int64_t channels, const C* sums, int64_t parts, int64_t layer, const Vectors& v,
                   bool second, const Common& s) const {
    const DenseTrainGradient& g = p.gradients[layer];
    C* dgamma = static_cast<C*>(second ? g.gamma2 : g.gamma1);
    C* dbeta = static_cast<C*>(second ? g.beta2 : g.beta1);
    const C* variance = static_cast<const C*>(norm.var);
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0, product = 0;
      for (int64_t i = 0; i < parts; ++i) {
        sum += double(sums[i * 2 * channels + c]);
        product += double(sums[(i * 2 + 1) * channels + c]);
      }
      const double invstd = 1.0 / sqrt(double(variance[c]) + norm.eps);
      if (dbeta) dbeta[c] = C(sum);
      if (dgamma) dgamma[c] = C(product * invstd);
      const double a = norm.batch ? double(v.scale[c]) / double(pixels) : 0.0;
      const double slope = -a * invstd * invstd * product, constant = -a * sum;
      if (second) {
        v.b[c] = C(slope);
        v.d[c] = C(constant);
      } else {
        s.b[c] += slope;
        s.d[c] += constant;
      }
    }
  }

  void take_own(int64_t first, int64_t count, const Common& s) const {
    for (int64_t c = 0; c < count; ++c) {
      s.own_b[c] = C(s.b[first + c]);
      s.own_d[c] = C(s.d[first + c]);
    }
  }

  void finish_input(const Common& s) const {
    take_own(0, f.in_channels, s);
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share part = share(b.n * b.h, task, tasks);
      for (int64_t row = part.first; row < part.last; ++row) {
        Corrected<C> k;
        k.g = gradient + row * b.w * b.c;
        k.g_type = compute_type<C>;
        k.g_stride = b.c;
        k.x = at(b.data, p.type, row * b.row());
        k.type = p.type;
        k.x_stride = b.pixel;
        k.mean = static_cast<const C*>(f.mean);
        k.b = batch_from(0) ? s.own_b : nullptr;
        k.d = s.own_d;
        k.out = at(p.dx.data, p.type, row / b.h * p.dx.image + row % b.h * p.dx.row());
        k.out_type = p.type;
        k.out_stride = p.dx.pixel;
        k.pixels = b.w;
        k.channels = f.in_channels;
        corrected(k);
      }
    });
  }

  void run() const {
    const Common s = common();
    char* base = static_cast<char*>(p.workspace) + s.bytes;
    for (int64_t c = 0; c < b.c; ++c) s.b[c] = s.d[c] = 0;
    for (int64_t layer = f.layers - 1; layer >= 0; --layer) {
      pack(layer, s);
      back3(layer, s, base);
      if (f.bottleneck) back1(layer, s, base);
    }
    if (p.dx.data) finish_input(s);
  }
};

}  // namespace

LIGHTOPS_CPU_OP(dense_block_train_backward, DenseBlockTrainBackwardParams)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
