#include "training/bn_act_dense.h"

#include "engine/entry.h"
#include "engine/moments.h"
#include "engine/strip.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// Per chunk: u into a strip, the product, and the statistics of what it wrote, while that is in cache. Tasks share the
// chunks, or the panels of outputs where the weights are the larger part; every chunk and channel has a slot for its
// statistics, so the cut between tasks leaves no trace.
template <class C> struct Forward {
  const BnActConv2dParams& p;
  const int64_t tasks = p.parallel.threads, taps = p.window.kernel[0] * p.window.kernel[1];
  const int64_t outputs = p.y.c, channels = p.x.c, depth = taps * channels, panels = ceil_div(outputs, kPanel);
  const Algo algo = algo_of();
  const Source<C> source{p, p.y, algo == Algo::direct ? 1 : 2};
  const bool by_panel = share_panels(panels, tasks, outputs* depth, source.cut.total() * outputs);

  explicit Forward(const BnActConv2dParams& params) : p(params) {}

  // float64 stays direct: there it is the accuracy that counts.
  Algo algo_of() const {
    const Window& w = p.window;
    const bool fits = taps == 9 && w.kernel[0] == 3 && w.stride[0] == 1 && w.stride[1] == 1 && w.dilation[0] == 1 &&
                      w.dilation[1] == 1;
    return fits && p.type != DType::f64 && channels >= 16 ? Algo::winograd2 : Algo::direct;
  }

  struct Shared {
    C *scale, *shift, *bias, *weight, *packed, *parts;
    int64_t* counts;
  };
  Shared shared(Arena& arena) const {
    Shared s;
    s.scale = arena.take<C>(channels);
    s.shift = arena.take<C>(channels);
    s.bias = arena.take<C>(p.bias ? outputs : 0);
    s.weight = arena.take<C>(in_order(p, compute_type<C>) ? 0 : outputs * depth);
    s.packed = arena.take<C>(algo == Algo::direct ? panels1x1_elements(outputs, depth)
                                                  : panels3x3_elements(outputs, channels, algo));
    s.parts = arena.take<C>(p.mean ? source.cut.count() * 2 * outputs : 0);
    s.counts = arena.take<int64_t>(source.cut.count());
    return s;
  }

  struct Own { C *strip, *winograd; };
  Own own(Arena& arena) const {
    Own o;
    o.strip = arena.take<C>(source.elements(channels));
    o.winograd = arena.take<C>(strip_scratch(conv(source.cut.step)));
    return o;
  }
  int64_t own_bytes() const {
    Arena arena;
    own(arena);
    return arena.used() + kApart;  // 1.3% of mobilenet_v1's pointwise forward passes on two cores
  }
  int64_t workspace() const {
    Arena arena;
    shared(arena);
    return arena.used() + tasks * own_bytes();
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
      w.outputs = outputs;
      w.output_stride = depth;
      w.depth_stride = 1;
      w.depth = algo == Algo::direct ? depth : channels;
      w.tap_stride[0] = p.window.kernel[1] * channels;
      w.tap_stride[1] = channels;
      const Share part = share(w.depth, task, tasks, 8), own = share(panels, task, tasks);
      if (algo == Algo::direct && by_panel) pack_whole_panels1x1(w, own.first, own.last, s.packed);
      else if (algo == Algo::direct) pack_panels1x1(w, part.first, part.last, s.packed);
      else pack_panels3x3(w, algo, part.first, part.last, s.packed);
    });
  }

  StripConv<C> conv(int64_t rows) const {
    StripConv<C> s;
    s.in_width = source.padded_width;
    s.channels = channels;
    s.in_row = source.padded_width * channels;
    s.window = p.window;
    s.algo = algo;
    s.outputs = outputs;
    s.rows = rows;
    s.width = p.y.w;
    s.out_type = p.type;
    s.out_row = p.y.row();
    s.out_pixel = p.y.pixel;
    return s;
  }

  void product(int64_t chunk, const Strip<C>& u, const Shared& s, const Own& o, void* out, Share panel,
               int64_t task) const {
    const C* bias = p.bias ? s.bias : nullptr;
    if (!source.pointwise && !p.pool) {
      StripConv<C> c = conv(source.cut.height(chunk));
      c.in = u.data;
      c.in_rows = source.strip_rows(c.rows);
      c.weights = s.packed;
      c.bias = bias;
      c.out = out;
      c.scratch = o.winograd;
      conv_strip(c, panel.first, panel.last);
      return;
    }
    Gemm<C> g;
    g.outer = source.outer(chunk);
    g.inner = source.inner(chunk);
    g.a = u.data;
    g.a_outer = u.row;
    g.a_inner = u.pixel;
    g.length = channels;
    g.b = s.packed;
    g.outputs = outputs;
    g.bias = bias;
    g.out = out;
    g.out_type = p.type;
    g.out_outer = p.y.row();
    g.out_inner = p.y.pixel;
    gemm_in_turn(g, panel, by_panel ? 0 : task, tasks);
  }

  void run() const {
    Arena arena(p.workspace);
    const Shared s = shared(arena);
    char* base = static_cast<char*>(p.workspace) + arena.used();
    affine_of<C>(p.norm, channels, s.scale, s.shift);
    if (p.bias) load_pixels<C>(p.bias, p.type, outputs, 1, outputs, Prologue<C>{}, s.bias);
    source.cut.counts(s.counts);
    pack(s);
    const Prologue<C> prologue{p.norm.mean ? s.scale : nullptr, p.norm.mean ? s.shift : nullptr, p.act};
    const int64_t chunks = source.cut.count();
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      Arena scratch(base + task * own_bytes());
      const Own o = own(scratch);
      const Share part = share(chunks, by_panel ? 0 : task, by_panel ? 1 : tasks);
      const Share panel = share(panels, by_panel ? task : 0, by_panel ? tasks : 1);
      const int64_t first = panel.first * kPanel;
      const int64_t count = (panel.last * kPanel < outputs ? panel.last * kPanel : outputs) - first;
      if (count <= 0) return;
      for (int64_t k = part.first; k < part.last; ++k) {
        const int64_t i = by_panel ? in_turn(part, k, task, tasks) : k;
        char* out = at(p.y.data, p.type, source.offset(p.y, i));
        product(i, source.load(i, prologue, 0, channels, o.strip), s, o, out, panel, task);
        C* mean = s.parts + 2 * i * outputs + first;
        if (p.mean) moments<C>(at(out, p.type, first), p.type, p.y.pixel, s.counts[i], count, mean, mean + outputs);
      }
    });
    if (!p.mean) return;
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share part = share(outputs, task, tasks, kPanel);
      merge_moments(s.parts + part.first, s.counts, chunks, outputs, part.size(), static_cast<C*>(p.mean) + part.first,
                    static_cast<C*>(p.var) + part.first);
    });
  }
};

}  // namespace

LIGHTOPS_CPU_OP_AS(bn_act_dense, BnActConv2dParams, Forward)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
