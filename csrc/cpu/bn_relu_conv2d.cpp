#include "lightops/bn_relu_conv2d.h"

#include "engine/entry.h"
#include "engine/rows.h"
#include "engine/strip.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// Every task takes a share of the output rows of all images. Per strip of output rows: normalise and activate the input
// rows into a padded strip, then one product reads all taps from it.
template <class E> struct Body {
  using C = Compute<E>;

  const BnReluConv2dParams& p;
  int64_t tasks = p.parallel.threads;
  int64_t padded_width = p.x.w + 2 * p.window.padding[1];
  int64_t span = p.window.dilation[0] * (p.window.kernel[0] - 1) + 1;  // strip rows under one output row
  int64_t grain = p.algo == Algo::direct ? 1 : int64_t(p.algo);       // output rows of a Winograd tile stay together
  int64_t rows;                                                       // output rows of a strip

  explicit Body(const BnReluConv2dParams& params) : p(params) {
    const int64_t row_bytes = padded_width * p.x.c * int64_t(sizeof(E));
    rows = (kScratchBytes / row_bytes - span) / p.window.stride[0] + 1;
    rows = rows / grain * grain;
    if (rows < grain) rows = grain;
    if (rows > round_up(p.out.h, grain)) rows = round_up(p.out.h, grain);
  }

  int64_t strip_rows(int64_t out_rows) const { return (out_rows - 1) * p.window.stride[0] + span; }

  StripConv<E> conv() const {
    StripConv<E> s;
    s.in_row = padded_width * p.x.c;
    s.in_width = padded_width;
    s.channels = p.x.c;
    s.window = p.window;
    s.algo = p.algo;
    s.weights = static_cast<const E*>(p.weight);
    s.bias = static_cast<const C*>(p.bias);
    s.outputs = p.out.c;
    s.act = p.act;
    s.rows = rows;
    s.width = p.out.w;
    s.out_type = p.type;
    s.out_row = p.out.row();
    s.out_pixel = p.out.pixel;
    return s;
  }

  struct Scratch {
    E* strip;
    C* winograd;
    int64_t bytes;
  };
  Scratch scratch(void* base) const {
    Arena arena(base);
    Scratch s;
    s.strip = arena.take<E>(strip_rows(rows) * padded_width * p.x.c);
    s.winograd = arena.take<C>(strip_scratch(conv()));
    s.bytes = apart(arena.used(), tasks);
    return s;
  }
  int64_t workspace() const { return tasks * scratch(nullptr).bytes; }

  void run() {
    const int64_t panels = ceil_div(p.out.c, kPanel);
    const int64_t height = round_up(p.out.h, grain);
    const int64_t all_rows = p.x.n * height;
    const bool by_panel = share_panels(panels, tasks, p.x.c * p.out.c * p.window.kernel[0] * p.window.kernel[1],
                                       all_rows * p.out.w * p.out.c);
    const Prologue<C> prologue{static_cast<const C*>(p.scale), static_cast<const C*>(p.shift), p.pre_act};
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share part = share(all_rows, by_panel ? 0 : task, by_panel ? 1 : tasks, grain);
      const Share panel = share(panels, by_panel ? task : 0, by_panel ? tasks : 1);
      const Scratch s = scratch(static_cast<char*>(p.workspace) + task * scratch(nullptr).bytes);
      for (int64_t row = part.first, step; row < part.last; row += step) {
        const int64_t n = row / height, y = row % height;
        step = rows < part.last - row ? rows : part.last - row;
        if (step > height - y) step = height - y;
        StripConv<E> c = conv();
        c.rows = step < p.out.h - y ? step : p.out.h - y;
        if (c.rows <= 0) continue;
        c.in_rows = strip_rows(c.rows);
        c.in = s.strip;
        c.scratch = s.winograd;
        const int64_t top = y * p.window.stride[0] - p.window.padding[0];
        for (int64_t i = 0; i < c.in_rows; ++i)
          load_padded_row<E>(p.x, p.type, n, top + i, p.window.padding[1], prologue, s.strip + i * c.in_row);
        c.out = at(p.out.data, p.type, n * p.out.image + y * p.out.row());
        conv_strip(c, panel.first, panel.last);
      }
    });
  }
};

}  // namespace

LIGHTOPS_CPU_OP_PAIRS(bn_relu_conv2d, BnReluConv2dParams)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
