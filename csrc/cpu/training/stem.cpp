#include "lightops/training/stem.h"

#include "engine/entry.h"
#include "engine/max_pool_places.h"
#include "engine/norm.h"
#include "engine/panels.h"
#include "engine/stem_rows.h"
#include "engine/wgrad.h"
#include "training/bn_act_dense.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// The rows of windows that pool a map of h x w pixels of `channels`, row y of them.
inline PoolRow pool_row(const Window& pool, int64_t h, int64_t w, const Nhwc& out, int64_t y) {
  PoolRow r;
  r.top = y * pool.stride[0] - pool.padding[0];
  r.height = h;
  r.width = w;
  r.channels = out.c;
  r.kernel[0] = pool.kernel[0];
  r.kernel[1] = pool.kernel[1];
  r.stride = pool.stride[1];
  r.padding = pool.padding[1];
  r.out_width = out.w;
  return r;
}

// The inference kernel's walk on weights packed here.
template <class C> struct Forward {
  const StemTrainParams& p;
  int64_t outputs = p.out.c, depth = p.window.kernel[0] * p.window.kernel[1] * p.x.c;

  explicit Forward(const StemTrainParams& params) : p(params) {}

  struct Weights {
    C *ordered, *packed;
    int64_t bytes;
  };
  Weights weights() const {
    Arena arena(p.workspace);
    Weights w;
    w.ordered = arena.take<C>(outputs * depth);
    w.packed = arena.take<C>(panels1x1_elements(outputs, depth));
    w.bytes = arena.used();
    return w;
  }
  StemParams inference(const Weights& w) const {
    StemParams s;
    s.x = p.x;
    s.out = p.out;
    s.type = p.type;
    s.weight = w.packed;
    s.bias = p.bias;
    s.act = p.act;
    s.window = p.window;
    s.pooled = true;
    s.pool = p.pool;
    s.parallel = p.parallel;
    return s;
  }
  int64_t workspace() const {
    const Weights w = weights();
    const StemParams s = inference(w);
    return w.bytes + p.parallel.threads * StemRows<C>(s).task_bytes();
  }

  void run() const {
    const Weights w = weights();
    order_weight<C>(p, 0, outputs, w.ordered);
    WeightView<C> view;
    view.data = w.ordered;
    view.outputs = outputs;
    view.output_stride = depth;
    view.depth = depth;
    view.depth_stride = 1;
    pack_panels1x1(view, 0, depth, w.packed);
    const StemParams params = inference(w);
    const StemRows<C> stem(params);
    for_tasks(p.parallel, stem.tasks, [&](int64_t task) {
      Arena arena(static_cast<char*>(p.workspace) + w.bytes + task * stem.task_bytes());
      const auto s = stem.scratch(arena);
      const Share part = share(p.x.n * p.out.h, task, stem.tasks);
      for (int64_t row = part.first, step; row < part.last; row += step) {
        const int64_t n = row / p.out.h, y = row % p.out.h;
        step = part.last - row < p.out.h - y ? part.last - row : p.out.h - y;
        stem.pooled_rows(n, y, y + step, s, [&](int64_t, const C* in, int64_t to) {
          const int64_t offset = n * p.out.image + to * p.out.row();
          max_pool_places(pool_row(p.pool, stem.conv_height, stem.conv_width, p.out, to), in,
                          static_cast<C*>(p.out.data) + offset, p.places + offset);
        });
      }
    });
  }
};

// Chunks of rows of the convolution's map: their gradient is made from the windows that cover them, in scratch, and taken up
// by the sums of the weight gradient at once. A part of the chunks has its own sums, merged in order.
template <class C> struct Backward {
  const StemTrainBackwardParams& p;
  const Window& w = p.window;
  int64_t outputs = p.out.c, run_length = w.kernel[1] * p.x.c, depth = w.kernel[0] * run_length;
  int64_t height = w.out(0, p.x.h), width = w.out(1, p.x.w), padded_width = p.x.w + 2 * w.padding[1];
  int64_t size = round_up(depth * outputs, kLanes<C>);
  Cut cut{p.x.n, height, width, 1};
  int64_t parts;

  explicit Backward(const StemTrainBackwardParams& params) : p(params) {
    const int64_t row = (width * outputs + w.stride[0] * padded_width * p.x.c) * int64_t(sizeof(C));
    const int64_t fit = kScratchBytes / 2 / row;
    cut.step = fit < 1 ? 1 : fit < height ? fit : height;
    cut.step = ceil_div(height, ceil_div(height, cut.step));  // of equal size
    parts = wgrad_parts(cut.total(), size);
    if (parts > cut.count()) parts = cut.count();
  }

  int64_t input_rows(int64_t rows) const { return (rows - 1) * w.stride[0] + w.kernel[0]; }

  struct Frame { C *weight, *bias; };  // [parts][depth][O], [parts][O]
  Frame frame(Arena& arena) const { return {arena.take<C>(parts * size), arena.take<C>(parts * outputs)}; }
  struct Own { C *input, *dy, *column; };
  Own own(Arena& arena) const {
    return {arena.take<C>(input_rows(cut.step) * padded_width * p.x.c), arena.take<C>(cut.step * width * outputs),
            arena.take<C>(outputs)};
  }
  int64_t frame_bytes() const {
    Arena arena;
    frame(arena);
    return arena.used();
  }
  int64_t task_bytes() const {
    Arena arena;
    own(arena);
    return arena.used();
  }
  int64_t workspace() const { return frame_bytes() + p.parallel.threads * task_bytes(); }

  // The gradient of the convolution's rows [first, last) of image n.
  void unpool(int64_t n, int64_t first, int64_t last, C* dy) const {
    memset(dy, 0, size_t((last - first) * width * outputs) * sizeof(C));
    const int64_t reach = first + p.pool.padding[0] - p.pool.kernel[0] + 1;
    const int64_t end = (last - 1 + p.pool.padding[0]) / p.pool.stride[0] + 1;
    for (int64_t y = reach <= 0 ? 0 : ceil_div(reach, p.pool.stride[0]); y < (end < p.out.h ? end : p.out.h); ++y)
      unpool_places(
          pool_row(p.pool, height, width, p.out, y),
          static_cast<const C*>(p.dout.data) + n * p.dout.image + y * p.dout.row(), p.dout.pixel,
          p.act == Act::none ? nullptr : static_cast<const C*>(p.out.data) + n * p.out.image + y * p.out.row(),
          p.out.pixel, p.places + (n * p.out.h + y) * p.out.w * outputs, first, last, dy);
  }

  // The outputs lie along vectors: an image has too few channels.
  void add_weight(int64_t n, int64_t first, int64_t last, const Own& o, C* sums) const {
    const int64_t row = padded_width * p.x.c;
    for (int64_t i = 0; i < input_rows(last - first); ++i)
      load_padded_row<C>(p.x, p.type, n, first * w.stride[0] - w.padding[0] + i, w.padding[1], Prologue<C>{},
                         o.input + i * row);
    Wgrad<C> g;
    g.outer = last - first;
    g.inner = width;
    g.dy_outer = w.stride[0] * row;
    g.dy_inner = w.stride[1] * p.x.c;
    g.outputs = run_length;
    g.u = o.dy;
    g.u_outer = width * outputs;
    g.u_inner = g.channels = g.dw_row = outputs;
    g.slack = true;
    for (int64_t ky = 0; ky < w.kernel[0]; ++ky) {
      g.dy = o.input + ky * row;
      g.dw = sums + ky * run_length * outputs;
      wgrad(g);
    }
  }

  void store(const C* sums) const {
    const int64_t taps = w.kernel[0] * w.kernel[1];
    C* const out = static_cast<C*>(p.dweight);
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t c = 0; c < p.x.c; ++c)
        for (int64_t t = 0; t < taps; ++t) out[(o * p.x.c + c) * taps + t] = sums[(t * p.x.c + c) * outputs + o];
  }

  void run() const {
    Arena arena(p.workspace);
    const Frame f = frame(arena);
    memset(f.weight, 0, size_t(parts * size) * sizeof(C));
    memset(f.bias, 0, size_t(parts * outputs) * sizeof(C));
    for_tasks(p.parallel, p.parallel.threads, [&](int64_t task) {
      Arena scratch(static_cast<char*>(p.workspace) + frame_bytes() + task * task_bytes());
      const Own o = own(scratch);
      const Share mine = share(parts, task, p.parallel.threads);
      for (int64_t part = mine.first; part < mine.last; ++part) {
        const Share chunks = share(cut.count(), part, parts);
        for (int64_t i = chunks.first; i < chunks.last; ++i) {
          const int64_t n = cut.image(i), first = cut.row(i), last = first + cut.height(i);
          unpool(n, first, last, o.dy);
          if (p.dweight) add_weight(n, first, last, o, f.weight + part * size);
          if (!p.dbias) continue;
          column_sums<C>(o.dy, compute_type<C>, outputs, cut.pixels(i), outputs, o.column);
          for (int64_t c = 0; c < outputs; ++c) f.bias[part * outputs + c] += o.column[c];
        }
      }
    });
    merge_parts(f.weight, parts, size, 0, depth * outputs);
    merge_parts(f.bias, parts, outputs, 0, outputs);
    if (p.dweight) store(f.weight);
    if (p.dbias) memcpy(p.dbias, f.bias, size_t(outputs) * sizeof(C));
  }
};

}  // namespace

LIGHTOPS_CPU_OP_AS(stem_train, StemTrainParams, Forward)
LIGHTOPS_CPU_OP_AS(stem_train_backward, StemTrainBackwardParams, Backward)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
