#include "lightops/dense_block.h"

#include "engine/entry.h"
#include "engine/pointwise.h"
#include "engine/strip.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// A layer is two products: the 1x1 over the normalised channel prefix into a padded strip of `middle` channels, and the
// 3x3 from that strip into the layer's own channels of the same buffer. Without a bottleneck the strip holds the
// normalised prefix itself.
//
// By image: a batch is shared out by images and each task runs all layers of one image without a barrier. Together: the
// tasks share every layer of an image, with one barrier after it. Where the whole strip fits a shared scratch the 1x1
// is shared too and a second barrier replaces the halo; larger maps keep a strip a task and compute two halo rows twice.
// Both products are shared by rows: what a core writes it mostly reads itself. Sharing the 1x1 by channels instead sent
// half of every strip from one core's cache to the other's, 78 us a layer at 28 x 28.
template <class E> struct Body {
  using C = Compute<E>;

  const DenseBlockParams& p;
  const Nhwc& b = p.buffer;
  int64_t tasks = p.parallel.threads;
  int64_t middle = p.bottleneck ? p.bottleneck : p.in_channels + (p.layers - 1) * p.growth;  // widest strip
  int64_t padded_width = b.w + 2;
  int64_t grain = p.algo == Algo::direct ? 1 : int64_t(p.algo);
  int64_t height = round_up(b.h, grain);
  bool by_image = b.n % tasks == 0 || b.n >= 4 * tasks;
  bool whole;     // together, with the 1x1 shared
  int64_t rows;   // output rows of a strip

  explicit Body(const DenseBlockParams& params) : p(params) {
    const int64_t row_bytes = padded_width * middle * int64_t(sizeof(E));
    rows = (kScratchBytes / row_bytes - 2) / grain * grain;
    whole = !by_image && p.bottleneck && (b.h + 2) * row_bytes <= 2 * kScratchBytes;
    if (rows < grain) rows = grain;
    if (rows > height || whole) rows = height;
  }

  StripConv<E> conv3(int64_t layer, int64_t channels) const {
    StripConv<E> s;
    s.in_row = padded_width * channels;
    s.in_width = padded_width;
    s.channels = channels;
    s.window.kernel[0] = s.window.kernel[1] = 3;
    s.algo = p.algo;
    s.weights = p.weights ? static_cast<const E*>(p.weights[layer].weight2) : nullptr;
    s.outputs = p.growth;
    s.rows = rows;
    s.width = b.w;
    s.out_type = p.type;
    s.out_row = b.row();
    s.out_pixel = b.pixel;
    return s;
  }

  struct Scratch {
    E* strip;
    E* input;
    C* winograd;
  };
  Scratch scratch(Arena& arena) const {
    Scratch s;
    s.strip = whole ? nullptr : arena.take<E>((rows + 2) * padded_width * middle);
    // Prefixes of every width pass through; a narrow one packs more pixels, a wide one more bytes a pixel.
    int64_t input = 0, winograd = 0;
    for (int64_t layer = 0; layer < p.layers; ++layer) {
      const int64_t prefix = p.in_channels + layer * p.growth;
      const int64_t one = p.bottleneck ? pointwise_scratch<E>(prefix, b.w) : 0;
      const int64_t three = strip_scratch(conv3(layer, p.bottleneck ? middle : prefix));
      if (one > input) input = one;
      if (three > winograd) winograd = three;
    }
    s.input = arena.take<E>(input);
    s.winograd = arena.take<C>(winograd);
    return s;
  }
  int64_t task_bytes() const {
    Arena arena;
    scratch(arena);
    return apart(arena.used(), tasks);
  }
  int64_t shared_bytes() const {
    Arena arena;
    if (whole) arena.take<E>((b.h + 2) * padded_width * middle);
    return arena.used();
  }
  int64_t workspace() const { return tasks * task_bytes() + shared_bytes(); }

  // Strip rows [top, top + count) of the layer's 3x3 input: zeros outside the image, else the 1x1 of the activated
  // prefix, or that prefix itself.
  void fill(int64_t n, int64_t layer, int64_t top, int64_t count, E* strip, E* input) const {
    const DenseLayerWeights& w = p.weights[layer];
    const int64_t prefix = p.in_channels + layer * p.growth;
    const Prologue<C> prologue{static_cast<const C*>(w.scale), static_cast<const C*>(w.shift), Act::relu};
    if (!p.bottleneck) {
      Nhwc x = b;
      x.c = prefix;
      for (int64_t i = 0; i < count; ++i)
        load_padded_row<E>(x, p.type, n, top + i, 1, prologue, strip + i * padded_width * prefix);
      return;
    }
    const int64_t row = padded_width * middle;
    for (int64_t i = 0; i < count; ++i) {
      const bool inside = top + i >= 0 && top + i < b.h;
      memset(strip + i * row, 0, size_t(inside ? middle : row) * sizeof(E));
      memset(strip + (i + 1) * row - middle, 0, size_t(middle) * sizeof(E));
    }
    const int64_t first = top < 0 ? 0 : top, last = top + count < b.h ? top + count : b.h;
    if (first >= last) return;
    Pointwise<E> one;
    one.x = at(b.data, p.type, n * b.image + first * b.row());
    one.type = p.type;
    one.rows = last - first;
    one.width = b.w;
    one.x_row = b.row();
    one.x_pixel = b.pixel;
    one.channels = prefix;
    one.prologue = prologue;
    one.weights = static_cast<const E*>(w.weight1);
    one.bias = static_cast<const C*>(w.bias1);
    one.outputs = middle;
    one.act = Act::relu;
    one.out = strip + (first - top) * row + middle;
    one.out_type = compute_type<E>;
    one.out_row = row;
    one.out_pixel = middle;
    one.scratch = input;
    pointwise(one);
  }

  // The layer's output rows [y, y + count) from strip rows that start at image row y - 1.
  void convolve(int64_t n, int64_t layer, int64_t y, int64_t count, const E* strip, C* winograd) const {
    const int64_t prefix = p.in_channels + layer * p.growth;
    StripConv<E> s = conv3(layer, p.bottleneck ? middle : prefix);
    s.in = strip;
    s.rows = count;
    s.in_rows = count + 2;
    s.scratch = winograd;
    s.out = at(b.data, p.type, n * b.image + y * b.row() + prefix);
    conv_strip(s);
  }

  // Output rows `part` of one layer of one image, a strip at a time; the two strip rows that the next strip shares with
  // this one are kept.
  void layer_rows(int64_t n, int64_t layer, Share part, const Scratch& s) const {
    const int64_t row = padded_width * (p.bottleneck ? middle : p.in_channels + layer * p.growth);
    int64_t kept = 0;
    for (int64_t y = part.first; y < part.last && y < b.h; y += rows) {
      int64_t count = rows < part.last - y ? rows : part.last - y;
      if (count > b.h - y) count = b.h - y;
      fill(n, layer, y - 1 + kept, count + 2 - kept, s.strip + kept * row, s.input);
      convolve(n, layer, y, count, s.strip, s.winograd);
      memmove(s.strip, s.strip + count * row, size_t(2 * row) * sizeof(E));
      kept = 2;
    }
  }

  void whole_layer(int64_t n, int64_t layer, E* shared, char* base) const {
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      Arena arena(base + task * task_bytes());
      const Scratch s = scratch(arena);
      const Share part = share(b.h, task, tasks);
      const int64_t top = part.first == 0 ? -1 : part.first, end = part.last == b.h ? b.h + 1 : part.last;
      fill(n, layer, top, end - top, shared + (top + 1) * padded_width * middle, s.input);
    });
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      Arena arena(base + task * task_bytes());
      const Share part = share(height, task, tasks, grain);
      const int64_t last = part.last < b.h ? part.last : b.h;
      if (last > part.first)
        convolve(n, layer, part.first, last - part.first, shared + part.first * padded_width * middle,
                 scratch(arena).winograd);
    });
  }

  void run() const {
    char* base = static_cast<char*>(p.workspace);
    E* shared = reinterpret_cast<E*>(base + tasks * task_bytes());
    if (by_image) {
      for_tasks(p.parallel, tasks, [&](int64_t task) {
        Arena arena(base + task * task_bytes());
        const Scratch s = scratch(arena);
        const Share images = share(b.n, task, tasks);
        for (int64_t n = images.first; n < images.last; ++n)
          for (int64_t layer = 0; layer < p.layers; ++layer) layer_rows(n, layer, {0, height}, s);
      });
      return;
    }
    for (int64_t n = 0; n < b.n; ++n) {
      for (int64_t layer = 0; layer < p.layers; ++layer) {
        if (whole) {
          whole_layer(n, layer, shared, base);
          continue;
        }
        for_tasks(p.parallel, tasks, [&](int64_t task) {
          Arena arena(base + task * task_bytes());
          layer_rows(n, layer, share(height, task, tasks, grain), scratch(arena));
        });
      }
    }
  }
};

}  // namespace

LIGHTOPS_CPU_OP_PAIRS(dense_block, DenseBlockParams)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
