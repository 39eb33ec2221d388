#include "engine/depthwise_walk.h"
#include "engine/entry.h"
#include "training/bn_act_depthwise.h"
#include "training/depthwise_chunks.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// Sums of weight gradients that are kept apart, each over a run of chunks, and merged in order. Small maps have fewer:
// they would spend their time on the sums.
constexpr int64_t kMostParts = 32, kLeastParts = 8, kPixelsPerTap = 64;
// A sum in one chain of more pixels than this is taken chunk by chunk.
constexpr int64_t kChain = 1024;

// Tensors from here on are fetched ahead row by row. In a step x comes from memory: 256 channels at 28 x 28, stride 2, batch
// 8, two threads take 0.42 ms of it instead of 0.57, called alone, in L3, 0.33 instead of 0.30. Smaller ones gain nothing.
constexpr int64_t kFarBytes = 4 << 20;
// A gradient from here on would leave L2 before anybody reads it.
constexpr int64_t kStreamBytes = 3 << 20;

// Pass one goes over the chunks of x once: du and the weight gradient, and from du either dx (nothing depends on the batch)
// or the two sums of the norm's backward. In training the second pass computes du again instead of storing it: reading
// dy twice costs less than writing a tensor and reading it back, and a 16-bit dz is never rounded.
template <class C> struct Backward {
  const BnActConv2dBackwardParams& p;
  int64_t tasks = p.parallel.threads;
  Cut cut = cut_rows(p.x, p.x.w* p.x.c* int64_t(sizeof(C)));
  int64_t parts = count_parts();
  bool chained = cut.total() <= kChain * parts;
  bool raw = !p.norm.mean && p.act == Act::none;  // u is x, du is dx
  bool computed = p.type == compute_type<C>;
  bool two_passes = p.norm.mean && p.norm.batch && p.dx.data;
  bool sums = p.dgamma || two_passes;
  // Where dz has its own precision in dx and a pixel of du costs as much as reading it back, it is stored.
  bool stored = two_passes && computed && p.window.stride[0] == 1 && p.window.stride[1] == 1;
  // The norm's part is taken while du is in registers, instead of in a pass over scratch before and after. 128 channels at
  // 56 x 56, batch 8, two threads: 0.92 ms to 0.77, at stride 2 0.82 to 0.58 (dx streams).
  bool fused = false;
  bool dy_in_place = computed && p.dy.pixel == p.dy.c;
  bool u_in_place = computed && raw && p.x.pixel == p.x.c;
  bool du_in_place = computed && p.dx.data && (raw || stored);
  bool walks = false;  // not by blocks of rows
  int64_t row = p.x.w * p.x.c;  // of u and du
  DepthwiseGrad<C> d;

  explicit Backward(const BnActConv2dBackwardParams& params) : p(params) {
    d.window = p.window;
    d.height = p.x.h;
    d.width = p.x.w;
    d.out_height = p.dy.h;
    d.out_width = p.dy.w;
    d.channels = p.x.c;
    fused = two_passes && p.dweight && computed && p.x.pixel == p.x.c && p.dx.pixel == p.dx.c &&
            depthwise_norm_fits(d, p.act);
    walks = depthwise_walks(d);
    d.far.stream = raw && du_in_place && streams();
    const bool fetch = !d.far.stream;  // beside streaming stores the hardware keeps up
    d.far.u = fetch && (u_in_place || fused) && bytes(p.x) >= kFarBytes;
    d.far.du = fetch && du_in_place && bytes(p.dx) >= kFarBytes;
    d.far.dy = fetch && dy_in_place && bytes(p.dy) >= kFarBytes;
  }

  static int64_t bytes(const Nhwc& t) { return t.n * t.h * t.w * t.pixel * int64_t(sizeof(C)); }
  bool streams() const {
    const bool aligned = p.dx.c % kLanes<C> == 0 && reinterpret_cast<uintptr_t>(p.dx.data) % kVecBytes == 0;
    return kStreams && aligned && bytes(p.dx) >= kStreamBytes;
  }

  int64_t count_parts() const {
    const int64_t worth = cut.total() / (kPixelsPerTap * p.window.kernel[0] * p.window.kernel[1]);
    const int64_t most = worth < kLeastParts ? kLeastParts : worth < kMostParts ? worth : kMostParts;
    return cut.count() < most ? cut.count() : most;
  }

  struct Frame {
    DepthwiseShared<C> shared;
    C* weights;        // [parts][packed]: sums of weight gradients
    C* bias;           // [parts][C]
    C* sums;           // [chunks][2][C]
    C *sum, *sum_x;    // merged
    C *a, *b, *shift;  // coefficients of dx
  };
  Frame frame(Arena& arena) const {
    const DepthwiseShared<C> shared(arena, p.norm, p.x.c, d.taps());
    Frame f{shared, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
    if (p.dweight) f.weights = arena.take<C>(parts * d.packed());
    if (p.dbias) f.bias = arena.take<C>(parts * p.x.c);
    if (sums) {
      f.sums = arena.take<C>(cut.count() * 2 * p.x.c);
      C** const vectors[] = {&f.sum, &f.sum_x, &f.a, &f.b, &f.shift};
      for (C** v : vectors) *v = arena.take<C>(p.x.c);
    }
    return f;
  }
  struct Scratch {
    C *u, *du, *dy;
    C* total;  // weight gradient of one chunk
    C* bias;
    C* walk;
  };
  Scratch scratch(Arena& arena) const {
    int64_t rows = 0;
    for (int64_t i = 0; i < cut.per_image(); ++i) {
      const int64_t reads = dy_rows(i).size();
      rows = reads > rows ? reads : rows;
    }
    Scratch s;
    s.u = u_in_place ? nullptr : arena.take<C>(cut.step * row);
    s.du = du_in_place ? nullptr : arena.take<C>(cut.step * row);
    s.dy = dy_in_place ? nullptr : arena.take<C>(rows * p.dy.w * p.dy.c);
    s.total = p.dweight && !chained ? arena.take<C>(d.packed()) : nullptr;
    s.bias = p.dbias ? arena.take<C>(p.x.c) : nullptr;
    s.walk = walks ? arena.take<C>(depthwise_walk_scratch(d)) : nullptr;
    return s;
  }
  int64_t frame_bytes() const {
    Arena arena;
    frame(arena);
    return arena.used();
  }
  int64_t task_bytes() const {
    Arena arena;
    scratch(arena);
    return arena.used();
  }
  int64_t workspace() const { return frame_bytes() + tasks * task_bytes(); }

  // Rows of dy that the rows of a chunk meet.
  Share dy_rows(int64_t i) const {
    const int64_t first = d.first_row(cut.row(i)), last = d.last_row(cut.row(i) + cut.height(i) - 1);
    return {first, last > first ? last : first};
  }
  char* dx_rows(int64_t i) const { return at(p.dx.data, p.type, cut.image(i) * p.dx.image + cut.row(i) * p.dx.row()); }
  const char* x_rows(int64_t i) const {
    return at(p.x.data, p.type, cut.image(i) * p.x.image + cut.row(i) * p.x.row());
  }

  // Both gradients of a chunk; the weights' into `sum`, where that is not null. Fused, `norm` is applied too, `sums` are
  // its sums and `du` is what it makes of du.
  void gradients(int64_t i, const NormBackward<C>& norm, const Prologue<C>& prologue, const Scratch& s, C* du, C* sum,
                 C* norm_sums) const {
    const Share rows = dy_rows(i);
    const char* from = at(p.dy.data, p.type, cut.image(i) * p.dy.image + rows.first * p.dy.row());
    const C* dy = reinterpret_cast<const C*>(from);
    if (!dy_in_place) {
      load_pixels<C>(from, p.type, p.dy.pixel, rows.size() * p.dy.w, p.dy.c, Prologue<C>{}, s.dy);
      dy = s.dy;
    }
    const C* u = reinterpret_cast<const C*>(x_rows(i));
    if (sum && !u_in_place && !fused) {
      load_pixels<C>(u, p.type, p.x.pixel, cut.pixels(i), p.x.c, prologue, s.u);
      u = s.u;
    }
    C* const total = chained ? sum : s.total;
    if (sum && !chained) memset(total, 0, size_t(d.packed()) * sizeof(C));
    if (norm_sums) memset(norm_sums, 0, size_t(2 * p.x.c) * sizeof(C));
    if (walks) {
      depthwise_walk<C>(d, fused ? &norm : nullptr, dy, rows.first, cut.row(i), cut.height(i), u, du,
                        sum ? total : nullptr, norm_sums, s.walk);
      if (sum && !chained) add(total, d.packed(), sum);
      return;
    }
    for (int64_t r = 0; r < cut.height(i); ++r) {
      C* const to = du ? du + r * row : nullptr;
      if (fused)
        depthwise_norm_row<C>(d, norm, dy, rows.first, cut.row(i) + r, u + r * row, to, sum ? total : nullptr,
                              norm_sums);
      else
        depthwise_grad_row<C>(d, dy, rows.first, cut.row(i) + r, sum ? u + r * row : nullptr, to,
                              sum ? total : nullptr);
    }
    if (sum && !chained) add(total, d.packed(), sum);
  }
  static void add(const C* from, int64_t count, C* to) {
    for (int64_t k = 0; k < count; ++k) to[k] += from[k];
  }

  // From du to dx (`out`) and to the chunk's [2][C] sums, either of which may not be wanted.
  void norm_gradient(const NormBackward<C>& norm, int64_t i, const C* du, bool out, C* sum) const {
    if (sum) memset(sum, 0, size_t(2 * p.x.c) * sizeof(C));
    norm_backward<C>(norm, {x_rows(i), p.type, p.x.pixel}, {du, compute_type<C>, p.x.c}, cut.pixels(i), p.x.c,
                     out ? dx_rows(i) : nullptr, p.dx.pixel, sum, p.x.c);
  }

  void first_pass(const Frame& f, const NormBackward<C>& norm, int64_t i, int64_t part, const Scratch& s) const {
    if (p.dbias) {
      const Share rows = share(p.dy.h, i % cut.per_image(), cut.per_image());
      column_sums<C>(at(p.dy.data, p.type, cut.image(i) * p.dy.image + rows.first * p.dy.row()), p.type, p.dy.pixel,
                     rows.size() * p.dy.w, p.x.c, s.bias);
      add(s.bias, p.x.c, f.bias + part * p.x.c);
    }
    C* const du = du_in_place ? reinterpret_cast<C*>(dx_rows(i)) : s.du;
    C* const weights = p.dweight ? f.weights + part * d.packed() : nullptr;
    if (fused) {
      gradients(i, norm, {}, s, stored ? du : nullptr, weights, f.sums + i * 2 * p.x.c);
      return;
    }
    if (p.dx.data || sums || weights) gradients(i, norm, f.shared.prologue(p.act), s, du, weights, nullptr);
    if ((raw && du_in_place) || (!p.dx.data && !sums)) return;
    if (raw) store_values<C>(du, cut.height(i) * row, p.type, dx_rows(i));
    else norm_gradient(norm, i, du, p.dx.data && (stored || !two_passes), sums ? f.sums + i * 2 * p.x.c : nullptr);
  }

  // The weight gradient of some channels, from whole groups of merged sums.
  void store_weights(const Frame& f, Share channels) const {
    const int64_t first = channels.first * d.taps();
    C* const dense = computed ? static_cast<C*>(p.dweight) + first : f.shared.dense + first;
    depthwise_unpack<C>(f.weights + first, channels.size(), d.taps(), dense);
    if (!computed) store_values<C>(dense, channels.size() * d.taps(), p.type, at(p.dweight, p.type, first));
  }

  // Sums over the parts, in order.
  void merge(const Frame& f) const {
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share piece = share(d.packed(), task, tasks, kGroup * d.taps());
      for (int64_t part = 1; p.dweight && part < parts; ++part)
        add(f.weights + part * d.packed() + piece.first, piece.size(), f.weights + piece.first);
      const Share own = share(p.x.c, task, tasks, kGroup);
      if (p.dweight) store_weights(f, own);
      for (int64_t part = 1; p.dbias && part < parts; ++part)
        add(f.bias + part * p.x.c + own.first, own.size(), f.bias + own.first);
      if (!sums) return;
      merge_sums<C>(cut.count(), f.sums + own.first, 2 * p.x.c, own.size(), f.sum + own.first);
      merge_sums<C>(cut.count(), f.sums + p.x.c + own.first, 2 * p.x.c, own.size(), f.sum_x + own.first);
      norm_gradients<C>(p.norm, p.x.n * p.x.h * p.x.w, f.sum, f.sum_x, own.first, own.last, static_cast<C*>(p.dgamma),
                        static_cast<C*>(p.dbeta), f.a, f.b, f.shift);
    });
    if (p.dbias) store_values<C>(f.bias, p.x.c, p.type, p.dbias);
  }

  void run() {
    Arena arena(p.workspace);
    const Frame f = frame(arena);
    f.shared.fill(p, d.taps());
    d.weights = f.shared.packed;
    NormBackward<C> norm;
    norm.scale = f.shared.scale;
    norm.shift = f.shared.shift;
    norm.mean = static_cast<const C*>(p.norm.mean);
    norm.act = p.act;
    norm.a = two_passes ? nullptr : f.shared.scale;
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      Arena own(static_cast<char*>(p.workspace) + frame_bytes() + task * task_bytes());
      const Scratch s = scratch(own);
      const Share mine = share(parts, task, tasks);
      for (int64_t part = mine.first; part < mine.last; ++part) {
        const Share chunks = share(cut.count(), part, parts);
        if (p.dweight) memset(f.weights + part * d.packed(), 0, size_t(d.packed()) * sizeof(C));
        if (p.dbias) memset(f.bias + part * p.x.c, 0, size_t(p.x.c) * sizeof(C));
        for (int64_t i = chunks.first; i < chunks.last; ++i) first_pass(f, norm, i, part, s);
      }
      if (d.far.stream) stream_fence();
    });
    merge(f);
    if (!two_passes) return;
    norm.a = f.a;
    norm.b = f.b;
    norm.d = f.shift;
    d.far.stream = fused && !stored && streams();
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      Arena own(static_cast<char*>(p.workspace) + frame_bytes() + task * task_bytes());
      const Scratch s = scratch(own);
      const Share mine = share(cut.count(), task, tasks);
      for (int64_t k = mine.first; k < mine.last; ++k) {
        const int64_t i = from_end(mine, k);
        if (stored) {
          norm_backward_finish<C>(norm, {x_rows(i), p.type, p.x.pixel}, cut.pixels(i), p.x.c, dx_rows(i), p.dx.pixel);
          continue;
        }
        if (fused) {
          gradients(i, norm, {}, s, reinterpret_cast<C*>(dx_rows(i)), nullptr, nullptr);
          continue;
        }
        gradients(i, norm, {}, s, s.du, nullptr, nullptr);
        norm_gradient(norm, i, s.du, true, nullptr);
      }
      if (d.far.stream) stream_fence();
    });
  }
};

}  // namespace

LIGHTOPS_CPU_OP_AS(bn_act_depthwise_backward, BnActConv2dBackwardParams, Backward)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
