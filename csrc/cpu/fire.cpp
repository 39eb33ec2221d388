#include "lightops/fire.h"

#include "engine/entry.h"
#include "engine/pointwise.h"
#include "engine/strip.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// Per strip of rows: squeeze the rows (and one above and below) into a padded strip, then both expansions read that
// strip and write their channel ranges of the output. With a batch the tasks share rows of images. A small
// single image is worked on together: the squeeze shared by rows, the expansions by panels of outputs.
template <class E> struct Body {
  using C = Compute<E>;

  const FireParams& p;
  int64_t tasks = p.parallel.threads;
  int64_t squeeze = p.squeeze_channels;
  int64_t padded_width = p.x.w + 2;
  int64_t row_elements = padded_width * squeeze;
  int64_t panels1 = ceil_div(p.expand1_channels, kPanel);
  int64_t panels3 = ceil_div(p.expand3_channels, kPanel);
  bool together = too_few_rows(p.x.n, ceil_div(p.x.h, 2), tasks);  // Winograd tiles take rows in pairs
  int64_t grain = p.algo == Algo::direct ? 1 : int64_t(p.algo);
  int64_t rows;  // output rows of a strip

  explicit Body(const FireParams& params) : p(params) {
    rows = kScratchBytes / int64_t(sizeof(E)) / row_elements - 2;
    rows = rows / grain * grain;
    if (rows < grain) rows = grain;
    if (rows > round_up(p.x.h, grain)) rows = round_up(p.x.h, grain);
  }

  StripConv<E> conv3(const E* strip, int64_t count) const {
    StripConv<E> s;
    s.in = strip;
    s.in_row = row_elements;
    s.in_width = padded_width;
    s.in_rows = count + 2;
    s.channels = squeeze;
    s.window.kernel[0] = s.window.kernel[1] = 3;
    s.algo = p.algo;
    s.weights = static_cast<const E*>(p.expand3);
    s.bias = static_cast<const C*>(p.expand3_bias);
    s.outputs = p.expand3_channels;
    s.act = Act::relu;
    s.rows = count;
    s.width = p.x.w;
    s.out_type = p.type;
    s.out_row = p.out.row();
    s.out_pixel = p.out.pixel;
    s.residual_row = p.bypass.row();
    s.residual_pixel = p.bypass.pixel;
    return s;
  }

  struct Scratch {
    E* strip;
    E* input;
    C* winograd;
  };
  Scratch scratch(Arena& arena) const {
    Scratch s;
    s.strip = together ? nullptr : arena.take<E>((rows + 2) * row_elements);
    s.input = arena.take<E>(pointwise_scratch<E>(p.x.c, p.x.w));
    s.winograd = arena.take<C>(strip_scratch(conv3(nullptr, rows)));
    return s;
  }
  int64_t task_bytes() const {
    Arena arena;
    scratch(arena);
    return apart(arena.used(), tasks);
  }
  int64_t shared_bytes() const {
    Arena arena;
    if (together) arena.take<E>((rows + 2) * row_elements);
    return arena.used();
  }
  int64_t workspace() const { return tasks * task_bytes() + shared_bytes(); }

  // Squeezed rows [top, top + count) of image n, zeros outside, into padded rows.
  void squeeze_rows(int64_t n, int64_t top, int64_t count, E* strip, E* input) const {
    for (int64_t i = 0; i < count; ++i) {
      E* row = strip + i * row_elements;
      const bool inside = top + i >= 0 && top + i < p.x.h;
      memset(row, 0, size_t(inside ? squeeze : row_elements) * sizeof(E));
      memset(row + row_elements - squeeze, 0, size_t(squeeze) * sizeof(E));
    }
    const int64_t first = top < 0 ? 0 : top, last = top + count < p.x.h ? top + count : p.x.h;
    if (first >= last) return;
    Pointwise<E> s;
    s.x = at(p.x.data, p.type, n * p.x.image + first * p.x.row());
    s.type = p.type;
    s.rows = last - first;
    s.width = p.x.w;
    s.x_row = p.x.row();
    s.x_pixel = p.x.pixel;
    s.channels = p.x.c;
    s.weights = static_cast<const E*>(p.squeeze);
    s.bias = static_cast<const C*>(p.squeeze_bias);
    s.outputs = squeeze;
    s.act = Act::relu;
    s.out = strip + (first - top) * row_elements + squeeze;
    s.out_type = compute_type<E>;
    s.out_row = row_elements;
    s.out_pixel = squeeze;
    s.scratch = input;
    pointwise(s);
  }

  // Panels are numbered through both expansions: first those of the 1x1, then those of the 3x3.
  void expand_rows(int64_t n, int64_t y, int64_t count, const E* strip, C* winograd, Share panel) const {
    StripConv<E> three = conv3(strip, count);
    three.scratch = winograd;
    three.out = at(p.out.data, p.type, n * p.out.image + y * p.out.row() + p.expand1_channels);
    StripConv<E> one = three;
    one.in = strip + row_elements + squeeze;  // the centre tap
    one.window = Window();
    one.algo = Algo::direct;
    one.weights = static_cast<const E*>(p.expand1);
    one.bias = static_cast<const C*>(p.expand1_bias);
    one.outputs = p.expand1_channels;
    one.out = at(p.out.data, p.type, n * p.out.image + y * p.out.row());
    if (p.bypass.data) {
      one.residual = at(p.bypass.data, p.type, n * p.bypass.image + y * p.bypass.row());
      three.residual = at(one.residual, p.type, p.expand1_channels);
    }
    const Share in1{panel.first < panels1 ? panel.first : panels1, panel.last < panels1 ? panel.last : panels1};
    if (in1.size() > 0) conv_strip(one, in1.first, in1.last);
    if (panel.last - in1.last > 0 && panel.last > panels1)
      conv_strip(three, panel.first > panels1 ? panel.first - panels1 : 0, panel.last - panels1);
  }

  // The 1x1 and the 3x3 panels are shared separately: a 3x3 panel costs several times a 1x1 panel.
  void expand_share(int64_t n, int64_t y, int64_t count, const E* strip, C* winograd, int64_t task) const {
    const Share one = share(panels1, task, tasks), three = share(panels3, tasks - 1 - task, tasks);
    if (one.size() > 0) expand_rows(n, y, count, strip, winograd, one);
    if (three.size() > 0) expand_rows(n, y, count, strip, winograd, {panels1 + three.first, panels1 + three.last});
  }

  void run() const {
    char* base = static_cast<char*>(p.workspace);
    E* shared = reinterpret_cast<E*>(base + tasks * task_bytes());
    if (together) {
      for (int64_t n = 0; n < p.x.n; ++n) {
        for (int64_t y = 0; y < p.x.h; y += rows) {
          const int64_t count = rows < p.x.h - y ? rows : p.x.h - y;
          for_tasks(p.parallel, tasks, [&](int64_t task) {
            Arena arena(base + task * task_bytes());
            const Share part = share(count + 2, task, tasks);
            squeeze_rows(n, y - 1 + part.first, part.size(), shared + part.first * row_elements, scratch(arena).input);
          });
          for_tasks(p.parallel, tasks, [&](int64_t task) {
            Arena arena(base + task * task_bytes());
            expand_share(n, y, count, shared, scratch(arena).winograd, task);
          });
        }
      }
      return;
    }
    const int64_t height = round_up(p.x.h, grain);
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      Arena arena(base + task * task_bytes());
      const Scratch s = scratch(arena);
      const Share part = share(p.x.n * height, task, tasks, grain);
      for (int64_t row = part.first, step; row < part.last; row += step) {
        const int64_t n = row / height, y = row % height;
        step = rows < part.last - row ? rows : part.last - row;
        if (step > height - y) step = height - y;
        const int64_t count = step < p.x.h - y ? step : p.x.h - y;
        if (count <= 0) continue;
        squeeze_rows(n, y - 1, count + 2, s.strip, s.input);
        expand_rows(n, y, count, s.strip, s.winograd, {0, panels1 + panels3});
      }
    });
  }
};

}  // namespace

LIGHTOPS_CPU_OP_PAIRS(fire, FireParams)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
