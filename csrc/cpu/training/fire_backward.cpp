#include "engine/entry.h"
#include "engine/norm.h"
#include "engine/storage.h"
#include "training/fire_backward_plan.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// out[p][c] = dout where y > 0; NaN counts as positive, as in torch's threshold.
template <bool Whole, class C, class T>
void mask_pixels(const T* dout, int64_t dout_stride, const T* y, int64_t y_stride, int64_t pixels, int64_t channels,
                 C* out) {
  constexpr int64_t L = kLanes<C>;
  for (int64_t i = 0; i < pixels; ++i, dout += dout_stride, y += y_stride, out += channels)
    for (int64_t c = 0; c < channels; c += L) {
      const int64_t left = Whole ? L : channels - c;
      const Vec<C> g = load_upto(dout + c, left), v = load_upto(y + c, left);
      store_upto(out + c, v <= Vec<C>{} ? Vec<C>{} : g, left);
    }
}

template <class C>
void load_masked(const void* dout, int64_t dout_stride, const void* y, int64_t y_stride, DType type, int64_t pixels,
                 int64_t channels, C* out) {
  Storage<C>::with(type, [&](auto* d) {
    d = static_cast<decltype(d)>(const_cast<void*>(dout));
    const auto* value = static_cast<decltype(d)>(const_cast<void*>(y));
    if (channels % kLanes<C> == 0) mask_pixels<true>(d, dout_stride, value, y_stride, pixels, channels, out);
    else mask_pixels<false>(d, dout_stride, value, y_stride, pixels, channels, out);
  });
}

// Together: per strip of rows the masked dout is loaded once, and all gradients are taken from it. Apart, where the sums of
// the 3x3's weight gradient would not stay in L2: first the gradients of the squeezed tensor and of x by strips; then those
// of the weights, by slices of pixels and groups of channels. Slices depend on the sizes alone and are merged in order.
template <class C> struct Body : FireBackwardPlan<C> {
  using Plan = FireBackwardPlan<C>;
  using Plan::common, Plan::dgrad3, Plan::expand1, Plan::expand3, Plan::grain, Plan::height, Plan::kGroup, Plan::kept,
      Plan::kRows, Plan::own, Plan::p, Plan::padded_width, Plan::rows, Plan::slices, Plan::squeeze, Plan::tasks,
      Plan::together, Plan::wgrad3, Plan::width;
  using typename Plan::Common;
  using typename Plan::Own;
  using typename Plan::Sums;

  explicit Body(const FireTrainBackwardParams& params) : Plan(params) {}

  int64_t workspace() const { return common().bytes + tasks * own(nullptr).bytes; }

  void pack(const Common& s) const {
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share one = share(expand1, task, tasks, 8), three = share(expand3, task, tasks, 8);
      const Share first = share(squeeze, task, tasks, 8), again = share(p.x.c, task, tasks, 8);
      pack_panels1x1(weight_view<C>(p.ws, squeeze, p.x.c), again.first, again.last, s.again);
      if (!p.dsqueeze) return;
      pack_panels1x1(transposed_view<C>(p.ws, p.x.c, squeeze), first.first, first.last, s.ws);
      pack_panels1x1(transposed_view<C>(p.w1, squeeze, expand1), one.first, one.last, s.w1);
      pack_panels3x3(transposed_view<C>(p.w3, squeeze, expand3), p.algo, three.first, three.last, s.w3);
    });
  }

  // The squeezed tensor once more: a tenth of the forward pass, for 6 of SqueezeNet's 104 MB that it would keep.
  void squeeze_again(const Common& s, char* base) const {
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Own mine = own(base + task * own(nullptr).bytes);
      const Share part = share(p.x.n * height, task, tasks);
      for (int64_t row = part.first, count; row < part.last; row += count) {
        const int64_t n = row / height, y = row % height;
        count = part.last - row < height - y ? part.last - row : height - y;
        Pointwise<C> one;
        one.x = at(p.x.data, p.type, n * p.x.image + y * p.x.row());
        one.type = p.type;
        one.rows = count;
        one.width = width;
        one.x_row = p.x.row();
        one.x_pixel = p.x.pixel;
        one.channels = p.x.c;
        one.weights = s.again;
        one.bias = static_cast<const C*>(p.bs);
        one.outputs = squeeze;
        one.act = Act::relu;
        one.out = static_cast<C*>(p.squeeze) + row * width * squeeze;
        one.out_type = compute_type<C>;
        one.out_row = width * squeeze;
        one.out_pixel = squeeze;
        one.scratch = mine.input;
        pointwise(one);
      }
    });
  }

  // Masked channels [first, first + count) of dout, rows [top, top + n) with a zero pixel on both sides.
  void load_d3(int64_t n, int64_t top, int64_t number, int64_t first, int64_t count, C* out) const {
    const int64_t row = padded_width * count;
    for (int64_t y = top; y < top + number; ++y, out += row) {
      if (y < 0 || y >= height) {
        memset(out, 0, size_t(row) * sizeof(C));
        continue;
      }
      memset(out, 0, size_t(count) * sizeof(C));
      load_d(n, y, 1, expand1 + first, count, out + count);
      memset(out + row - count, 0, size_t(count) * sizeof(C));
    }
  }
  void load_d(int64_t n, int64_t y, int64_t number, int64_t first, int64_t count, C* out) const {
    load_masked<C>(at(p.dout.data, p.type, n * p.dout.image + y * p.dout.row() + first), p.dout.pixel,
                   at(p.out.data, p.type, n * p.out.image + y * p.out.row() + first), p.out.pixel, p.type,
                   number * width, count, out);
  }

  void strip(int64_t n, int64_t y, int64_t count, const Common& s, const Own& mine) const {
    const int64_t inner = count * width;
    load_d3(n, y - 1, count + 2, 0, expand3, mine.d3);
    load_d(n, y, count, 0, expand1, mine.d1);
    if (!p.dsqueeze) return;
    StripConv<C> c = dgrad3();
    c.in = mine.d3;
    c.in_rows = count + 2;
    c.rows = count;
    c.weights = s.w3;
    c.scratch = mine.winograd;
    c.out = mine.ds;
    conv_strip(c);
    Gemm<C> g;
    g.inner = inner;
    g.a = mine.d1;
    g.a_inner = g.length = expand1;
    g.b = s.w1;
    g.outputs = squeeze;
    g.out = mine.ds;
    g.out_type = compute_type<C>;
    g.out_inner = squeeze;
    g.residual = mine.ds;
    g.residual_inner = squeeze;
    gemm(g);
    C* ds = static_cast<C*>(p.dsqueeze) + (n * height + y) * width * squeeze;
    const C* positive = squeezed(n, y);
    for (int64_t i = 0; i < inner * squeeze; i += kLanes<C>) {
      const int64_t left = inner * squeeze - i;
      const Vec<C> v = load_upto(mine.ds + i, left);
      store_upto(ds + i, load_upto(positive + i, left) <= Vec<C>{} ? Vec<C>{} : v, left);
    }
    if (!p.dx.data) return;
    g.a = ds;
    g.a_inner = g.length = squeeze;
    g.b = s.ws;
    g.outputs = p.dx.c;
    g.out = at(p.dx.data, p.type, n * p.dx.image + y * p.dx.row());
    g.out_type = p.type;
    g.out_inner = p.dx.pixel;
    g.residual = nullptr;
    gemm(g);
  }

  void strips(const Common& s, char* base) const {
    const int64_t padded = round_up(height, grain);
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Own mine = own(base + task * own(nullptr).bytes);
      const Share part = share(p.x.n * padded, task, tasks, grain);
      for (int64_t row = part.first, step; row < part.last; row += step) {
        const int64_t n = row / padded, y = row % padded;
        step = rows < part.last - row ? rows : part.last - row;
        if (step > padded - y) step = padded - y;
        const int64_t count = step < height - y ? step : height - y;
        if (count > 0) strip(n, y, count, s, mine);
      }
    });
  }

  // Calls f(n, y, count) for pieces of at most `step` rows of slice number `slice` of all image rows; pieces do not pass
  // the end of an image, and start on even rows.
  template <class F> void for_rows(int64_t slice, int64_t step, const F& f) const {
    const int64_t padded = round_up(height, 2);
    const Share part = share(p.x.n * padded, slice, slices, 2);
    for (int64_t row = part.first, size; row < part.last; row += size) {
      const int64_t n = row / padded, y = row % padded;
      size = step < part.last - row ? step : part.last - row;
      if (size > padded - y) size = padded - y;
      const int64_t count = size < height - y ? size : height - y;
      if (count > 0) f(n, y, count);
    }
  }

  // Runs f(slice, first channel, channels) for all slices and groups of `channels`.
  template <class F> void for_groups(int64_t channels, const F& f) const {
    const int64_t groups = ceil_div(channels, kGroup), units = slices * groups;
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share some = share(units, task, tasks);
      for (int64_t unit = some.first; unit < some.last; ++unit) {
        const int64_t first = unit % groups * kGroup;
        f(task, unit / groups, first, channels - first < kGroup ? channels - first : kGroup);
      }
    });
  }

  void add_bias(const C* values, int64_t stride, int64_t count, int64_t channels, C* bias) const {
    C sums[kGroup];
    for (int64_t c = 0; c < channels; c += kGroup) {
      const int64_t some = channels - c < kGroup ? channels - c : kGroup;
      column_sums<C>(values + c, compute_type<C>, stride, count, some, sums);
      for (int64_t i = 0; i < some; ++i) bias[c + i] += sums[i];
    }
  }

  Wgrad3x3<C> start3(int64_t slice, int64_t first, int64_t count, const Common& s, const Own& mine) const {
    Wgrad3x3<C> w = wgrad3(count);
    w.sums = s.three.weight + slice * s.three.size + first;
    w.scratch = mine.domain;
    for (int64_t i = 0; i < w.planes() * squeeze; ++i) memset(w.sums + i * expand3, 0, size_t(count) * sizeof(C));
    return w;
  }

  // Adds `number` rows from y; d3 holds them, masked, from its row `top` on.
  void add3(int64_t n, int64_t y, int64_t number, int64_t top, Wgrad3x3<C>* w, const Own& mine, C* bias) const {
    const int64_t row = padded_width * w->outputs;
    for (int64_t i = 0; i < number + 2; ++i)
      load_padded_row<C>(kept, compute_type<C>, n, y - 1 + i, 1, Prologue<C>(), mine.s + i * padded_width * squeeze);
    wgrad3x3_strip(w, mine.s, mine.d3 + top * row + w->outputs, row, number, width);
    // The zeros at both sides add nothing.
    add_bias(mine.d3 + top * row, w->outputs, number * padded_width, w->outputs, bias);
  }

  void weight3(const Common& s, char* base) const {
    for_groups(expand3, [&](int64_t task, int64_t slice, int64_t first, int64_t count) {
      const Own mine = own(base + task * own(nullptr).bytes);
      Wgrad3x3<C> w = start3(slice, first, count, s, mine);
      for_rows(slice, rows, [&](int64_t n, int64_t y, int64_t number) {
        load_d3(n, y, number, first, count, mine.d3);
        add3(n, y, number, 0, &w, mine, s.three.bias + slice * s.three.outputs + first);
      });
      wgrad3x3_flush(&w);
    });
  }

  // sums[s][c] of one slice, to which rows are added: the squeezed side by broadcast, the wide side by vector.
  Wgrad<C> start1(const Sums& s, int64_t channels, int64_t slice, int64_t first, int64_t count) const {
    Wgrad<C> w;
    w.dw = s.weight + slice * s.size + first;
    w.dw_row = channels;
    w.outputs = w.dy_inner = squeeze;
    w.channels = count;
    for (int64_t i = 0; i < squeeze; ++i) memset(w.dw + i * channels, 0, size_t(count) * sizeof(C));
    return w;
  }

  // Adds rows whose masked d1 is loaded.
  void add1(int64_t n, int64_t y, int64_t number, Wgrad<C> w, const Own& mine, C* bias) const {
    w.inner = number * width;
    w.dy = squeezed(n, y);
    w.u = mine.d1;
    w.u_inner = w.channels;
    w.slack = true;
    wgrad(w);
    add_bias(mine.d1, w.channels, w.inner, w.channels, bias);
  }

  // Adds rows of channels from `first` on of x.
  void add_first(int64_t n, int64_t y, int64_t number, int64_t first, Wgrad<C> w, const Own& mine, C* bias) const {
    w.inner = number * width;
    w.dy = static_cast<const C*>(p.dsqueeze) + (n * height + y) * width * squeeze;
    const void* x = at(p.x.data, p.type, n * p.x.image + y * p.x.row() + first);
    if (p.type == compute_type<C>) {
      w.u = static_cast<const C*>(x);
      w.u_inner = p.x.pixel;
    } else {
      load_pixels<C>(x, p.type, p.x.pixel, w.inner, w.channels, Prologue<C>(), mine.d1);
      w.u = mine.d1;
      w.u_inner = w.channels;
      w.slack = true;
    }
    wgrad(w);
    if (first == 0) add_bias(w.dy, squeeze, w.inner, squeeze, bias);
  }

  void weight_gradients(const Common& s, char* base) const {
    if (p.dw3 || p.db3) weight3(s, base);
    if (p.dw1 || p.db1)
      for_groups(expand1, [&](int64_t task, int64_t slice, int64_t first, int64_t count) {
        const Own mine = own(base + task * own(nullptr).bytes);
        const Wgrad<C> w = start1(s.one, expand1, slice, first, count);
        for_rows(slice, kRows, [&](int64_t n, int64_t y, int64_t number) {
          load_d(n, y, number, first, count, mine.d1);
          add1(n, y, number, w, mine, s.one.bias + slice * s.one.outputs + first);
        });
      });
    if (p.dws || p.dbs)
      for_groups(p.x.c, [&](int64_t task, int64_t slice, int64_t first, int64_t count) {
        const Own mine = own(base + task * own(nullptr).bytes);
        const Wgrad<C> w = start1(s.first, p.x.c, slice, first, count);
        for_rows(slice, kRows, [&](int64_t n, int64_t y, int64_t number) {
          add_first(n, y, number, first, w, mine, s.first.bias + slice * s.first.outputs);
        });
      });
  }

  void all_gradients(const Common& s, char* base) const {
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Own mine = own(base + task * own(nullptr).bytes);
      const Share some = share(slices, task, tasks);
      for (int64_t slice = some.first; slice < some.last; ++slice) {
        Wgrad3x3<C> three = start3(slice, 0, expand3, s, mine);
        const Wgrad<C> one = start1(s.one, expand1, slice, 0, expand1);
        const Wgrad<C> first = start1(s.first, p.x.c, slice, 0, p.x.c);
        for_rows(slice, rows, [&](int64_t n, int64_t y, int64_t number) {
          strip(n, y, number, s, mine);
          if (p.dw3 || p.db3) add3(n, y, number, 1, &three, mine, s.three.bias + slice * s.three.outputs);
          if (p.dw1 || p.db1) add1(n, y, number, one, mine, s.one.bias + slice * s.one.outputs);
          if (p.dws || p.dbs) add_first(n, y, number, 0, first, mine, s.first.bias + slice * s.first.outputs);
        });
        wgrad3x3_flush(&three);
      }
    });
  }

  const C* squeezed(int64_t n, int64_t y) const {
    return static_cast<const C*>(p.squeeze) + (n * height + y) * width * squeeze;
  }

  void finish(const Common& s) const {
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share mine = share(squeeze, task, tasks);
      const auto merge = [&](const Sums& sums, int64_t planes, int64_t channels) {
        for (int64_t i = 0; i < planes; ++i)
          merge_parts(sums.weight, slices, sums.size, (i * squeeze + mine.first) * channels,
                      (i * squeeze + mine.last) * channels);
      };
      if (p.dw3) {
        Wgrad3x3<C> w = wgrad3(expand3);
        w.sums = s.three.weight;
        merge(s.three, w.planes(), expand3);
        wgrad3x3_store(w, mine.first, mine.last, static_cast<C*>(p.dw3));
      }
      if (p.dw1) {
        merge(s.one, 1, expand1);
        for (int64_t i = mine.first; i < mine.last; ++i)
          for (int64_t o = 0; o < expand1; ++o) static_cast<C*>(p.dw1)[o * squeeze + i] = s.one.weight[i * expand1 + o];
      }
      if (p.dws) {
        merge(s.first, 1, p.x.c);
        memcpy(static_cast<C*>(p.dws) + mine.first * p.x.c, s.first.weight + mine.first * p.x.c,
               size_t(mine.size() * p.x.c) * sizeof(C));
      }
      if (task != 0) return;
      const auto bias = [&](const Sums& sums, int64_t outputs, void* out) {
        if (!out) return;
        merge_parts(sums.bias, slices, sums.outputs, 0, outputs);
        memcpy(out, sums.bias, size_t(outputs) * sizeof(C));
      };
      bias(s.three, expand3, p.db3);
      bias(s.one, expand1, p.db1);
      bias(s.first, squeeze, p.dbs);
    });
  }

  void run() const {
    const Common s = common();
    char* base = static_cast<char*>(p.workspace) + s.bytes;
    const Sums* all[] = {&s.first, &s.one, &s.three};
    for (const Sums* sums : all) memset(sums->bias, 0, size_t(slices * sums->outputs) * sizeof(C));
    pack(s);
    squeeze_again(s, base);
    if (together) {
      all_gradients(s, base);
    } else {
      if (p.dsqueeze) strips(s, base);
      weight_gradients(s, base);
    }
    finish(s);
  }
};

}  // namespace

LIGHTOPS_CPU_OP(fire_train_backward, FireTrainBackwardParams)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
