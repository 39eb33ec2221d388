#include "engine/entry.h"
#include "training/dense_input_gradient.h"
#include "training/dense_weight_gradient.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// The gradient of u with the sums of its mask, the gradient of the weight, and dx once the sums are merged: dz waits for
// them where dx will be. Where both gradients are cut alike they are taken chunk by chunk together: dy and x are then
// read from memory once.
template <class C> struct Backward {
  const BnActConv2dBackwardParams& p;
  const int64_t tasks = p.parallel.threads, outputs = p.dy.c, channels = p.x.c;
  const Source<C> source{p, p.dy, 1};
  const InputGradient<C> input{p, source};
  const WeightGradient<C> weight{p, source};
  const bool wants_du = p.dx.data || p.dgamma || p.dbeta;
  // The gradient of u alone, where it is taken apart.
  const bool by_panel = input.way != InputGradient<C>::Way::scatter &&
                        share_panels(input.panels(), tasks, weight.size, input.cut.total() * outputs);
  const bool together = wants_du && p.dweight && input.way == InputGradient<C>::Way::product && !weight.by_block();

  explicit Backward(const BnActConv2dBackwardParams& params) : p(params) {}

  struct Shared { C *scale, *shift, *sum, *sum_x, *a, *b, *d, *weight, *packed, *sums, *dw, *bias_sums; };
  Shared shared(Arena& arena) const {
    Shared s;
    C** const vectors[] = {&s.scale, &s.shift, &s.sum, &s.sum_x, &s.a, &s.b, &s.d};
    for (C** v : vectors) *v = arena.take<C>(channels);
    s.weight = arena.take<C>(wants_du && !in_order(p, compute_type<C>) ? weight.size : 0);
    s.packed = arena.take<C>(wants_du ? input.packed_elements() : 0);
    s.sums = arena.take<C>(wants_du ? input.cut.count() * 2 * channels : 0);
    s.dw = arena.take<C>(p.dweight && !weight.direct() ? weight.parts * weight.size : 0);
    if (p.dweight && weight.direct()) s.dw = static_cast<C*>(p.dweight);
    s.bias_sums = arena.take<C>(p.dbias ? (source.cut.count() + 1) * outputs : 0);
    return s;
  }

  struct Own {
    typename InputGradient<C>::Own input;
    typename WeightGradient<C>::Own weight;
    C* dy;
  };
  Own own(Arena& arena) const {
    Own o{};
    if (wants_du) o.input = input.own(arena);
    if (p.dweight) o.weight = weight.own(arena);
    o.dy = arena.take<C>(source.in_place() ? 0 : source.cut.step * source.cut.width * outputs);
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

  // f(task, its scratch)
  template <class F> void each_task(char* base, const F& f) const {
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      Arena arena(base + task * own_bytes());
      f(task, own(arena));
    });
  }

  void pack(const Shared& s) const {
    const bool ordered = in_order(p, compute_type<C>);
    if (!ordered)
      for_tasks(p.parallel, tasks, [&](int64_t task) {
        const Share part = share(outputs, task, tasks);
        order_weight<C>(p, part.first, part.last, s.weight);
      });
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      input.pack(ordered ? static_cast<const C*>(p.weight) : s.weight, task, tasks, by_panel, s.packed);
    });
  }

  NormBackward<C> norm(const Shared& s) const {
    NormBackward<C> n;
    n.scale = p.norm.mean ? s.scale : nullptr;
    n.shift = s.shift;
    n.mean = static_cast<const C*>(p.norm.mean);
    n.act = p.act;
    if (p.norm.mean && !p.norm.batch) n.a = s.scale;
    return n;
  }
  Prologue<C> prologue(const Shared& s) const {
    return {p.norm.mean ? s.scale : nullptr, p.norm.mean ? s.shift : nullptr, p.act};
  }

  void both_gradients(const Shared& s, char* base) const {
    each_task(base, [&](int64_t task, const Own& o) {
      const Share mine = share(weight.parts, task, tasks);
      for (int64_t k = mine.first; k < mine.last; ++k) {
        C* dw = s.dw + k * weight.size;
        weight.clear(weight.block(0), dw);
        const Share part = share(source.cut.count(), k, weight.parts);
        for (int64_t i = part.first; i < part.last; ++i) {
          const Strip<C> dy = source.gradient(p.dy, i, 0, outputs, o.dy);
          input.chunk(i, dy, s.packed, norm(s), {0, input.panels()}, o.input, s.sums + i * 2 * channels, task);
          weight.chunk(i, prologue(s), dy, weight.block(0), o.weight.u, dw);
        }
      }
    });
  }

  void input_gradient(const Shared& s, char* base) const {
    const int64_t chunks = input.cut.count(), panels = input.panels();
    const bool product = input.way == InputGradient<C>::Way::product;
    each_task(base, [&](int64_t task, const Own& o) {
      const Share part = share(chunks, by_panel ? 0 : task, by_panel ? 1 : tasks);
      const Share panel = share(panels, by_panel ? task : 0, by_panel ? tasks : 1);
      if (panel.size() == 0) return;
      for (int64_t k = part.first; k < part.last; ++k) {
        const int64_t i = by_panel ? in_turn(part, k, task, tasks) : k;
        input.chunk(i, product ? source.gradient(p.dy, i, 0, outputs, o.dy) : Strip<C>{}, s.packed, norm(s), panel,
                    o.input, s.sums + i * 2 * channels, by_panel ? 0 : task);
      }
    });
  }

  void weight_gradient(const Shared& s, char* base) const {
    const Source<C>& from = weight.source;
    const int64_t chunks = from.cut.count();
    each_task(base, [&](int64_t task, const Own& o) {
      const Share mine = share(weight.by_block() ? weight.blocks() : weight.parts, task, tasks);
      for (int64_t i = mine.first; i < mine.last; ++i) {
        const int64_t k = weight.by_block() ? weight.turned(i, mine, task, tasks) : i;
        const auto block = weight.block(weight.by_block() ? k : 0);
        const Share part = weight.by_block() ? Share{0, chunks} : share(chunks, k, weight.parts);
        C* dw = weight.by_block() ? s.dw : s.dw + k * weight.size;
        weight.clear(block, dw);
        for (int64_t c = part.first; c < part.last; ++c)
          weight.chunk(c, prologue(s), from.gradient(p.dy, c, block.output, block.outputs, o.weight.dy), block,
                       o.weight.u, dw);
      }
    });
  }

  void store_weight(const Shared& s) const {
    if (weight.parts > 1)
      for_tasks(p.parallel, tasks, [&](int64_t task) {
        const Share part = share(weight.size, task, tasks, kCacheLine);
        merge_parts(s.dw, weight.parts, weight.size, part.first, part.last);
      });
    if (!weight.direct())
      for_tasks(p.parallel, tasks, [&](int64_t task) {
        const Share part = share(outputs, task, tasks);
        weight.store(s.dw, part.first, part.last);
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
      merge_sums(input.cut.count(), s.sums + part.first, 2 * channels, part.size(), s.sum + part.first);
      merge_sums(input.cut.count(), s.sums + channels + part.first, 2 * channels, part.size(), s.sum_x + part.first);
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
      for (int64_t k = part.first; k < part.last; ++k) {
        const int64_t i = from_end(part, k);
        const auto place = [&](const Nhwc& t) {
          return at(t.data, p.type, pixels.image(i) * t.image + pixels.row(i) * t.pixel);
        };
        norm_backward_finish<C>(n, {place(p.x), p.type, p.x.pixel}, pixels.pixels(i), channels, place(p.dx),
                                p.dx.pixel);
      }
    });
  }

  void run() const {
    Arena arena(p.workspace);
    const Shared s = shared(arena);
    char* base = static_cast<char*>(p.workspace) + arena.used();
    affine_of<C>(p.norm, channels, s.scale, s.shift);
    if (wants_du) pack(s);
    if (together) {
      both_gradients(s, base);
    } else {
      if (wants_du) input_gradient(s, base);
      if (p.dweight) weight_gradient(s, base);
    }
    if (p.dweight) store_weight(s);
    if (p.dbias) bias_gradient(s);
    if (wants_du && p.norm.mean) finish(s);
  }
};

}  // namespace

LIGHTOPS_CPU_OP_AS(bn_act_dense_backward, BnActConv2dBackwardParams, Backward)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
