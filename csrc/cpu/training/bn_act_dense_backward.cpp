#include "engine/entry.h"
#include "engine/strip.h"
#include "engine/wgrad.h"
#include "training/bn_act_dense.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// Three phases: the gradient of u per chunk with the sums of its mask, the gradient of the weight, and dx once the sums
// are merged. dz waits for them where dx will be.
//
// du is a product with the transposed weight (pointwise; a pooled source spreads it over 2x2 pixels), the forward kernel
// with turned, transposed weights (3x3 of stride 1), or, for every other geometry, a product that gives all taps of an
// output pixel, which are then added up where they belong.
template <class C> struct Backward {
  enum class Way { product, turned, scatter };

  const BnActConv2dBackwardParams& p;
  const int64_t tasks = p.parallel.threads, taps = p.window.kernel[0] * p.window.kernel[1];
  const int64_t outputs = p.dy.c, channels = p.x.c, depth = taps * channels, panels = ceil_div(channels, kPanel);
  const Source<C> source{p, p.dy, 1};
  const Way way = way_of();
  const Algo algo = way == Way::turned && p.type != DType::f64 && outputs >= 16 ? Algo::winograd2 : Algo::direct;
  const Cut cut = cut_of();  // of dx
  const bool wants_du = p.dx.data || p.dgamma || p.dbeta;
  const bool in_place = p.type == compute_type<C>;  // dy needs no conversion
  // Few input channels (stems) would leave the vectors of the product empty: then the outputs lie along them.
  const bool exchanged = channels < 16 && outputs >= 16;
  const int64_t parts = parts_of();

  explicit Backward(const BnActConv2dBackwardParams& params) : p(params) {}

  Way way_of() const {
    const Window& w = p.window;
    if (source.pointwise || p.pool) return Way::product;
    const bool turns = w.kernel[0] == 3 && w.kernel[1] == 3 && w.stride[0] == 1 && w.stride[1] == 1 && w.dilation[0] == 1 &&
                       w.dilation[1] == 1 && w.padding[0] <= 2 && w.padding[1] <= 2;
    return turns ? Way::turned : Way::scatter;
  }
  int64_t pad(int axis) const { return 2 - p.window.padding[axis]; }
  int64_t turned_width() const { return p.dy.w + 2 * pad(1); }
  Cut cut_of() const {
    if (way == Way::product) return source.cut;
    if (way == Way::scatter) return Cut{p.x.n, p.x.h, p.x.w, p.x.h};
    int64_t step = kScratchBytes / 2 / int64_t(sizeof(C)) / (turned_width() * outputs) - 2;
    step = step / 2 * 2;
    if (step < 2) step = 2;
    if (step > p.x.h) step = p.x.h;
    return Cut{p.x.n, p.x.h, p.x.w, step};
  }
  // Tasks of the weight gradient are parts of the pixels; where its own size forbids copies of it, ranges of channels.
  int64_t parts_of() const {
    const int64_t most = wgrad_parts(source.cut.total(), outputs * depth);
    const int64_t count = most >= 8 || panels < 4 ? most : 1;
    return count < source.cut.count() ? count : source.cut.count();
  }

  struct Shared { C *scale, *shift, *weight, *packed, *sums, *dw, *bias_sums, *sum, *sum_x, *a, *b, *d; };
  Shared shared(Arena& arena) const {
    Shared s;
    C** const vectors[] = {&s.scale, &s.shift, &s.sum, &s.sum_x, &s.a, &s.b, &s.d};
    for (C** v : vectors) *v = arena.take<C>(channels);
    s.weight = arena.take<C>(wants_du && !in_order(p, compute_type<C>) ? outputs * depth : 0);
    s.packed = arena.take<C>(!wants_du               ? 0
                             : way == Way::turned    ? panels3x3_elements(channels, outputs, algo)
                                                     : panels1x1_elements(depth, outputs));
    s.sums = arena.take<C>(wants_du ? cut.count() * 2 * channels : 0);
    s.dw = arena.take<C>(p.dweight ? parts * outputs * depth : 0);
    s.bias_sums = arena.take<C>(p.dbias ? (source.cut.count() + 1) * outputs : 0);
    return s;
  }

  struct Own { C *u, *dy, *du, *extra; };
  Own own(Arena& arena) const {
    Own o;
    o.u = arena.take<C>(source.elements(channels));
    const int64_t dy = in_place ? 0 : source.cut.step * source.cut.width * outputs;
    const int64_t rows = way == Way::turned ? (cut.step + 2) * turned_width() * outputs : 0;
    const int64_t image = way == Way::scatter && !in_place ? p.dy.w * outputs : 0;
    const int64_t most = rows > image ? rows : image;
    o.dy = arena.take<C>(dy > most ? dy : most);
    o.du = arena.take<C>(!wants_du ? 0 : p.pool ? source.cut.step * p.dy.w * channels : cut.step * cut.width * channels);
    o.extra = arena.take<C>(!wants_du              ? 0
                            : way == Way::scatter  ? p.dy.w * depth
                            : way == Way::turned   ? strip_scratch(turned_conv(cut.step))
                                                   : 0);
    return o;
  }
  int64_t own_bytes() const {
    Arena arena;
    own(arena);
    return arena.used();
  }
  int64_t workspace() const {
    Arena arena;
    shared(arena);
    return arena.used() + tasks * own_bytes();
  }

  StripConv<C> turned_conv(int64_t rows) const {
    StripConv<C> s;
    s.in_row = turned_width() * outputs;
    s.in_width = turned_width();
    s.in_rows = rows + 2;
    s.channels = outputs;
    s.window = Window{{3, 3}, {1, 1}, {0, 0}, {1, 1}};
    s.algo = algo;
    s.outputs = channels;
    s.rows = rows;
    s.width = p.x.w;
    s.out_type = compute_type<C>;
    s.out_row = p.x.w * channels;
    s.out_pixel = channels;
    return s;
  }

  void pack(const Shared& s) const {
    const bool ordered = in_order(p, compute_type<C>);
    if (!ordered)
      for_tasks(p.parallel, tasks, [&](int64_t task) {
        const Share part = share(outputs, task, tasks);
        order_weight<C>(p, part.first, part.last, s.weight);
      });
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      WeightView<C> w;
      w.data = ordered ? static_cast<const C*>(p.weight) : s.weight;
      w.outputs = way == Way::turned ? channels : depth;
      w.output_stride = 1;
      w.depth = outputs;
      w.depth_stride = depth;
      w.tap_stride[0] = 3 * channels;
      w.tap_stride[1] = channels;
      w.flip = true;
      const Share part = share(ceil_div(w.outputs, kPanel), task, tasks);
      if (way == Way::turned) pack_panels3x3(w, algo, part.first, part.last, s.packed);
      else pack_panels1x1(w, part.first, part.last, s.packed);
    });
  }

  // dy of a chunk of the source in the compute type.
  Strip<C> gradient(int64_t chunk, C* scratch) const {
    const void* from = at(p.dy.data, p.type, source.offset(p.dy, chunk));
    if (in_place) return {static_cast<const C*>(from), p.dy.row(), p.dy.pixel, false};
    load_pixels<C>(from, p.type, p.dy.pixel, source.cut.pixels(chunk), outputs, Prologue<C>{}, scratch);
    return {scratch, p.dy.w * outputs, outputs, true};
  }

  void multiply(const Strip<C>& dy, int64_t outer, int64_t inner, const C* weights, int64_t columns, C* out, Share panel) const {
    Gemm<C> g;
    g.outer = outer;
    g.inner = inner;
    g.a = dy.data;
    g.a_outer = dy.row;
    g.a_inner = dy.pixel;
    g.length = outputs;
    g.b = weights;
    g.outputs = columns;
    g.out = out;
    g.out_type = compute_type<C>;
    g.out_outer = inner * columns;
    g.out_inner = columns;
    gemm(g, panel.first, panel.last);
  }

  // du of a whole image from the taps of each output pixel.
  void scatter(int64_t n, const Shared& s, const Own& o) const {
    const Window& w = p.window;
    memset(o.du, 0, size_t(p.x.h * p.x.w * channels) * sizeof(C));
    for (int64_t y = 0; y < p.dy.h; ++y) {
      Strip<C> dy{nullptr, 0, p.dy.pixel, false};
      const void* from = at(p.dy.data, p.type, n * p.dy.image + y * p.dy.row());
      if (in_place) {
        dy.data = static_cast<const C*>(from);
      } else {
        load_pixels<C>(from, p.type, p.dy.pixel, p.dy.w, outputs, Prologue<C>{}, o.dy);
        dy = {o.dy, 0, outputs, true};
      }
      multiply(dy, 1, p.dy.w, s.packed, depth, o.extra, {0, ceil_div(depth, kPanel)});
      for (int64_t ky = 0; ky < w.kernel[0]; ++ky) {
        const int64_t row = y * w.stride[0] - w.padding[0] + ky * w.dilation[0];
        if (row < 0 || row >= p.x.h) continue;
        for (int64_t x = 0; x < p.dy.w; ++x)
          for (int64_t kx = 0; kx < w.kernel[1]; ++kx) {
            const int64_t column = x * w.stride[1] - w.padding[1] + kx * w.dilation[1];
            if (column < 0 || column >= p.x.w) continue;
            const C* tap = o.extra + x * depth + (ky * w.kernel[1] + kx) * channels;
            C* to = o.du + (row * p.x.w + column) * channels;
            for (int64_t c = 0; c < channels; c += kLanes<C>)
              store_upto(to + c, load_upto(to + c, channels - c) + load_upto(tap + c, channels - c), channels - c);
          }
      }
    }
  }

  // The norm's part of one chunk: dz to dx (or dx itself, frozen) and the sums, for channels [first, first + count).
  void mask(int64_t chunk, const NormBackward<C>& norm, const C* du, int64_t first, int64_t count, C* sums) const {
    const NormBackward<C> n = norm.from(first);
    const auto pixels = [&](int64_t x, int64_t dx, const C* gradient, int64_t step, int64_t stride, int64_t number) {
      const Pixels in{at(p.x.data, p.type, x + first), p.type, step * p.x.pixel};
      void* out = p.dx.data ? at(p.dx.data, p.type, dx + first) : nullptr;
      norm_backward<C>(n, in, {gradient + first, compute_type<C>, stride}, number, count, out, step * p.dx.pixel, sums + first,
                       channels);
    };
    if (!p.pool) {
      const bool points = source.pointwise;
      const int64_t image = cut.image(chunk), row = cut.row(chunk);
      pixels(image * p.x.image + row * (points ? p.x.pixel : p.x.row()),
             image * p.dx.image + row * (points ? p.dx.pixel : p.dx.row()), du, 1, channels, cut.pixels(chunk));
      return;
    }
    // Rows and columns behind the last whole window have no part in the average.
    const int64_t n_image = cut.image(chunk), top = 2 * cut.row(chunk), rows = 2 * cut.height(chunk);
    const int64_t last = cut.row(chunk) + cut.height(chunk) == p.dy.h ? p.x.h : top + rows;
    for (int64_t y = top; y < last; ++y) {
      const int64_t x = n_image * p.x.image + y * p.x.row(), dx = n_image * p.dx.image + y * p.dx.row();
      const bool inside = y < top + rows;
      const C* from = du + (y - top) / 2 * p.dy.w * channels;
      if (inside)
        for (int64_t i = 0; i < 2; ++i)
          pixels(x + i * p.x.pixel, dx + i * p.dx.pixel, from, 2, channels, p.dy.w);
      const int64_t behind = inside ? 2 * p.dy.w : 0;
      if (p.dx.data && behind < p.x.w)
        for (int64_t i = behind; i < p.x.w; ++i)
          memset(at(p.dx.data, p.type, dx + i * p.dx.pixel + first), 0, size_t(count * type_size(p.type)));
    }
  }

  void input_gradient(const Shared& s, char* base) const {
    NormBackward<C> n;
    n.scale = p.norm.mean ? s.scale : nullptr;
    n.shift = s.shift;
    n.mean = static_cast<const C*>(p.norm.mean);
    n.act = p.act;
    if (p.norm.mean && !p.norm.batch) n.a = s.scale;
    const int64_t chunks = cut.count();
    const bool by_panel = way != Way::scatter && share_panels(panels, tasks, outputs * depth, cut.total() * outputs);
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      Arena scratch(base + task * own_bytes());
      const Own o = own(scratch);
      const Share part = share(chunks, by_panel ? 0 : task, by_panel ? 1 : tasks);
      const Share panel = share(panels, by_panel ? task : 0, by_panel ? tasks : 1);
      const int64_t first = panel.first * kPanel;
      const int64_t count = (panel.last * kPanel < channels ? panel.last * kPanel : channels) - first;
      if (count <= 0) return;
      for (int64_t i = part.first; i < part.last; ++i) {
        if (way == Way::product) {
          multiply(gradient(i, o.dy), source.outer(i), source.inner(i), s.packed, channels, o.du, panel);
          if (p.pool)
            for (int64_t k = 0; k < cut.pixels(i) * channels; ++k) o.du[k] *= C(0.25);
        } else if (way == Way::turned) {
          StripConv<C> c = turned_conv(cut.height(i));
          for (int64_t y = 0; y < c.in_rows; ++y)
            load_padded_row<C>(p.dy, p.type, cut.image(i), cut.row(i) - pad(0) + y, pad(1), Prologue<C>{}, o.dy + y * c.in_row);
          c.in = o.dy;
          c.weights = s.packed;
          c.out = o.du;
          c.scratch = o.extra;
          conv_strip(c, panel.first, panel.last);
        } else {
          scatter(i, s, o);
        }
        C* sums = s.sums + i * 2 * channels;
        for (int k = 0; k < 2; ++k) memset(sums + k * channels + first, 0, size_t(count) * sizeof(C));
        mask(i, n, o.du, first, count, sums);
      }
    });
  }

  // dw of chunks [part.first, part.last), channels [first, first + count), into a dw that is cleared here.
  void weight_part(Share part, int64_t first, int64_t count, const Shared& s, const Own& o, C* dw) const {
    const Prologue<C> prologue{p.norm.mean ? s.scale : nullptr, p.norm.mean ? s.shift : nullptr, p.act};
    const Window& w = p.window;
    if (exchanged) memset(dw, 0, size_t(outputs * depth) * sizeof(C));
    else
      for (int64_t k = 0; k < outputs * taps; ++k) memset(dw + k * channels + first, 0, size_t(count) * sizeof(C));
    for (int64_t i = part.first; i < part.last; ++i) {
      const Strip<C> u = source.load(i, prologue, first, count, o.u), dy = gradient(i, o.dy);
      Wgrad<C> g;
      g.outer = source.outer(i);
      g.inner = source.inner(i);
      for (int64_t t = 0; t < taps; ++t) {
        const int64_t ky = t / w.kernel[1], kx = t % w.kernel[1];
        const C* from = u.data + ky * w.dilation[0] * u.row + kx * w.dilation[1] * u.pixel;
        const int64_t outer = w.stride[0] * u.row, inner = w.stride[1] * u.pixel;
        if (exchanged) {
          // The taps of a kernel row are neighbours: one run.
          const bool run = w.dilation[1] == 1;
          if (run && kx) continue;
          g.dy = from, g.dy_outer = outer, g.dy_inner = inner, g.outputs = run ? w.kernel[1] * channels : channels;
          g.u = dy.data, g.u_outer = dy.row, g.u_inner = dy.pixel, g.channels = outputs, g.slack = dy.slack;
          g.dw = dw + t * channels * outputs;
          g.dw_row = outputs;
        } else {
          g.dy = dy.data, g.dy_outer = dy.row, g.dy_inner = dy.pixel, g.outputs = outputs;
          g.u = from, g.u_outer = outer, g.u_inner = inner, g.channels = count, g.slack = u.slack;
          g.dw = dw + t * channels + first;
          g.dw_row = depth;
        }
        wgrad(g);
      }
    }
  }

  void weight_gradient(const Shared& s, char* base) const {
    const int64_t chunks = source.cut.count(), size = outputs * depth;
    const auto scratch = [&](int64_t task) {
      Arena arena(base + task * own_bytes());
      return own(arena);
    };
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      if (parts > 1) {
        const Share mine = share(parts, task, tasks);
        for (int64_t k = mine.first; k < mine.last; ++k)
          weight_part(share(chunks, k, parts), 0, channels, s, scratch(task), s.dw + k * size);
      } else {
        const Share mine = share(channels, exchanged ? 0 : task, exchanged ? 1 : tasks, kPanel);
        if (mine.size() > 0 && (!exchanged || task == 0))
          weight_part({0, chunks}, mine.first, mine.size(), s, scratch(task), s.dw);
      }
    });
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share part = share(size, task, tasks, kCacheLine);
      if (parts > 1) merge_parts(s.dw, parts, size, part.first, part.last);
    });
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share part = share(outputs, task, tasks);
      Storage<C>::with(p.type, [&](auto* tag) {
        auto* out = static_cast<decltype(tag)>(p.dweight);
        for (int64_t o = part.first; o < part.last; ++o)
          for (int64_t t = 0; t < taps; ++t)
            for (int64_t c = 0; c < channels; ++c)
              store_partial(out + (o * channels + c) * taps + t,
                            splat(exchanged ? s.dw[(t * channels + c) * outputs + o] : s.dw[(o * taps + t) * channels + c]), 1);
      });
    });
  }

  void bias_gradient(const Shared& s) const {
    const int64_t chunks = source.cut.count();
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share part = share(chunks, task, tasks);
      for (int64_t i = part.first; i < part.last; ++i)
        column_sums<C>(at(p.dy.data, p.type, source.offset(p.dy, i)), p.type, p.dy.pixel, source.cut.pixels(i), outputs,
                       s.bias_sums + i * outputs);
    });
    C* total = s.bias_sums + chunks * outputs;
    merge_sums(chunks, s.bias_sums, outputs, outputs, total);
    store_values<C>(total, outputs, p.type, p.dbias);
  }

  void finish(const Shared& s) const {
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share part = share(channels, task, tasks, kPanel);
      if (part.size() == 0) return;
      merge_sums(cut.count(), s.sums + part.first, 2 * channels, part.size(), s.sum + part.first);
      merge_sums(cut.count(), s.sums + channels + part.first, 2 * channels, part.size(), s.sum_x + part.first);
      norm_gradients(p.norm, p.x.n * p.x.h * p.x.w, s.sum, s.sum_x, part.first, part.last, static_cast<C*>(p.dgamma),
                     static_cast<C*>(p.dbeta), s.a, s.b, s.d);
    });
    if (!p.dx.data || !p.norm.batch) return;
    NormBackward<C> n;
    n.mean = static_cast<const C*>(p.norm.mean);
    n.a = s.a;
    n.b = s.b;
    n.d = s.d;
    Cut pixels = cut_pixels<C>(p.x);
    if (!one_line(p.x) || !one_line(p.dx)) pixels = Cut{p.x.n, p.x.h * p.x.w, 1, pixels.step};
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share part = share(pixels.count(), task, tasks);
      for (int64_t i = part.first; i < part.last; ++i) {
        const auto place = [&](const Nhwc& t) {
          return at(t.data, p.type, pixels.image(i) * t.image + pixels.row(i) * t.pixel);
        };
        norm_backward_finish<C>(n, {place(p.x), p.type, p.x.pixel}, pixels.pixels(i), channels, place(p.dx), p.dx.pixel);
      }
    });
  }

  void run() const {
    Arena arena(p.workspace);
    const Shared s = shared(arena);
    char* base = static_cast<char*>(p.workspace) + arena.used();
    affine_of<C>(p.norm, channels, s.scale, s.shift);
    if (wants_du) {
      pack(s);
      input_gradient(s, base);
    }
    if (p.dweight) weight_gradient(s, base);
    if (p.dbias) bias_gradient(s);
    if (wants_du && p.norm.mean) finish(s);
  }
};

}  // namespace

LIGHTOPS_CPU_OP_AS(bn_act_dense_backward, BnActConv2dBackwardParams, Backward)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
