#include "lightops/training/dense_block.h"

#include "engine/entry.h"
#include "engine/moments.h"
#include "engine/pointwise.h"
#include "engine/storage.h"
#include "engine/strip.h"
#include "training/dense_layers.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// A layer is two products, each a phase of its own because the batch norm between them needs the whole batch: the 1x1 over
// chunks of pixels, the 3x3 over strips of rows. Each chunk's statistics are taken while its outputs are in cache and
// merged after the phase.
template <class C> struct Body {
  const DenseBlockTrainParams& p;
  const Nhwc& b = p.buffer;
  int64_t tasks = p.parallel.threads;
  int64_t pixels = b.n * b.h * b.w;
  int64_t widest = p.in_channels + (p.layers > 0 ? p.layers - 1 : 0) * p.growth;
  int64_t middle = p.bottleneck ? p.bottleneck : widest;  // channels that a 3x3 reads
  int64_t padded_width = b.w + 2;
  Chunks chunks{pixels, kChunkPixels};

  explicit Body(const DenseBlockTrainParams& params) : p(params) {}

  int64_t prefix(int64_t layer) const { return p.in_channels + layer * p.growth; }
  int64_t inputs3(int64_t layer) const { return p.bottleneck ? p.bottleneck : prefix(layer); }
  Strips strips(int64_t layer) const {
    const int64_t grain = p.algo == Algo::direct ? 1 : int64_t(p.algo);
    const int64_t rows = kScratchBytes / (padded_width * inputs3(layer) * int64_t(sizeof(C))) - 2;
    return Strips(b.n, b.h, rows < grain ? grain : rows / grain * grain, grain);
  }
  int64_t most_chunks() const {
    int64_t most = chunks.count;
    for (int64_t layer = 0; layer < p.layers; ++layer)
      if (strips(layer).count() > most) most = strips(layer).count();
    return most;
  }
  int64_t most_channels() const {
    const int64_t in = p.in_channels > p.bottleneck ? p.in_channels : p.bottleneck;
    return in > p.growth ? in : p.growth;
  }

  StripConv<C> conv3(int64_t layer) const {
    const Strips s = strips(layer);
    StripConv<C> c;
    c.channels = inputs3(layer);
    c.in_row = padded_width * c.channels;
    c.in_width = padded_width;
    c.window.kernel[0] = c.window.kernel[1] = 3;
    c.algo = p.algo;
    c.outputs = p.growth;
    c.rows = s.rows;
    c.width = b.w;
    c.out_type = p.type;
    c.out_row = b.row();
    c.out_pixel = b.pixel;
    return c;
  }

  // Shared by the tasks.
  struct Common {
    C *weight1, *weight2, *scale, *shift, *parts;
    int64_t* counts;
    int64_t bytes;
  };
  Common common() const {
    Arena arena(p.workspace);
    Common s;
    s.weight1 = arena.take<C>(p.bottleneck ? panels1x1_elements(p.bottleneck, widest) : 0);
    s.weight2 = arena.take<C>(panels3x3_elements(p.growth, middle, p.algo));
    s.scale = arena.take<C>(widest > middle ? widest : middle);
    s.shift = arena.take<C>(widest > middle ? widest : middle);
    s.parts = arena.take<C>(2 * most_chunks() * most_channels());
    s.counts = arena.take<int64_t>(most_chunks());
    s.bytes = arena.used();
    return s;
  }
  // Of one task.
  struct Own {
    C *strip, *input, *winograd;
    int64_t bytes;
  };
  Own own(char* base) const {
    Arena arena(base);
    int64_t strip = 0, input = 0, winograd = 0;
    for (int64_t layer = 0; layer < p.layers; ++layer) {
      const int64_t rows = (strips(layer).rows + 2) * padded_width * inputs3(layer);
      const int64_t one = p.bottleneck ? pointwise_scratch<C>(prefix(layer), 1) : 0;
      const int64_t three = strip_scratch(conv3(layer));
      if (rows > strip) strip = rows;
      if (one > input) input = one;
      if (three > winograd) winograd = three;
    }
    Own s;
    s.strip = arena.take<C>(strip);
    s.input = arena.take<C>(input);
    s.winograd = arena.take<C>(winograd);
    s.bytes = arena.used();
    return s;
  }
  int64_t workspace() const { return common().bytes + tasks * own(nullptr).bytes; }

  C* mean(int64_t c) const { return static_cast<C*>(p.mean) + c; }
  C* variance(int64_t c) const { return static_cast<C*>(p.variance) + c; }

  void copy_input(const Common& s) const {
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share part = share(b.n * b.h, task, tasks);
      const int64_t size = type_size(p.type) * p.in_channels;
      for (int64_t row = part.first; row < part.last; ++row) {
        const char* from = at(p.x.data, p.type, row / b.h * p.x.image + row % b.h * p.x.row());
        char* to = at(b.data, p.type, row * b.row());
        for (int64_t i = 0; i < b.w; ++i)
          memcpy(to + i * b.pixel * type_size(p.type), from + i * p.x.pixel * type_size(p.type), size_t(size));
      }
    });
    if (p.x_known) return;
    for_chunks(s, p.in_channels, [&](Share part, C* mean, C* deviation) {
      moments<C>(at(b.data, p.type, part.first * b.pixel), p.type, b.pixel, part.size(), p.in_channels, mean,
                 deviation);
    });
    merge_moments<C>(s.parts, s.counts, chunks.count, p.in_channels, p.in_channels, mean(0), variance(0));
  }

  template <class F> void for_chunks(const Common& s, int64_t channels, const F& f) const {
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share mine = share(chunks.count, task, tasks);
      for (int64_t i = mine.first; i < mine.last; ++i) {
        s.counts[i] = chunks[i].size();
        f(chunks[i], s.parts + i * 2 * channels, s.parts + (i * 2 + 1) * channels);
      }
    });
  }

  void pack(int64_t layer, const Common& s) const {
    const DenseTrainLayer& l = p.layer[layer];
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share one = share(prefix(layer), task, tasks, 16), three = share(inputs3(layer), task, tasks, 16);
      if (p.bottleneck)
        pack_panels1x1(weight_view<C>(l.weight1, p.bottleneck, prefix(layer)), one.first, one.last, s.weight1);
      pack_panels3x3(weight_view<C>(l.weight2, p.growth, inputs3(layer)), p.algo, three.first, three.last, s.weight2);
    });
  }
  void run1(int64_t layer, const Common& s, char* base) const {
    affine_of<C>(p.layer[layer].norm1, prefix(layer), s.scale, s.shift);
    void* out = at(p.middle, p.type, layer * pixels * p.bottleneck);
    const int64_t stride = p.bottleneck;
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Own mine = own(base + task * own(nullptr).bytes);
      const Share part = share(chunks.count, task, tasks);
      for (int64_t i = part.first; i < part.last; ++i) {
        const Share px = chunks[i];
        Pointwise<C> one;
        one.x = at(b.data, p.type, px.first * b.pixel);
        one.type = p.type;
        one.width = px.size();
        one.x_row = px.size() * b.pixel;
        one.x_pixel = b.pixel;
        one.channels = prefix(layer);
        one.prologue = {s.scale, s.shift, Act::relu};
        one.weights = s.weight1;
        one.outputs = p.bottleneck;
        one.out = at(out, p.type, px.first * stride);
        one.out_type = p.type;
        one.out_row = px.size() * stride;
        one.out_pixel = stride;
        one.scratch = mine.input;
        pointwise(one);
        s.counts[i] = px.size();
        moments<C>(one.out, p.type, stride, px.size(), stride, s.parts + i * 2 * stride,
                   s.parts + (i * 2 + 1) * stride);
      }
    });
    merge_moments<C>(s.parts, s.counts, chunks.count, stride, stride, static_cast<C*>(p.middle_mean) + layer * stride,
                     static_cast<C*>(p.middle_variance) + layer * stride);
  }

  void run3(int64_t layer, const Common& s, char* base) const {
    const DenseTrainLayer& l = p.layer[layer];
    affine_of<C>(p.bottleneck ? l.norm2 : l.norm1, inputs3(layer), s.scale, s.shift);
    const Strips all = strips(layer);
    Nhwc in = b;
    if (p.bottleneck) {
      in.data = at(p.middle, p.type, layer * pixels * p.bottleneck);
      in.pixel = p.bottleneck;
      in.image = b.h * b.w * p.bottleneck;
    }
    in.c = inputs3(layer);
    const Prologue<C> prologue{s.scale, s.shift, Act::relu};
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Own mine = own(base + task * own(nullptr).bytes);
      const Share part = share(all.count(), task, tasks);
      StripConv<C> c = conv3(layer);
      c.in = mine.strip;
      c.weights = s.weight2;
      c.scratch = mine.winograd;
      for (int64_t i = part.first; i < part.last; ++i) {
        const int64_t n = all.image(i);
        const Share rows = all.range(i);
        c.rows = rows.size();
        c.in_rows = c.rows + 2;
        for (int64_t y = 0; y < c.in_rows; ++y)
          load_padded_row<C>(in, p.type, n, rows.first - 1 + y, 1, prologue, mine.strip + y * c.in_row);
        c.out = at(b.data, p.type, n * b.image + rows.first * b.row() + prefix(layer));
        conv_strip(c);
        const int64_t count = c.rows * b.w;
        if (l.mask.data) multiply(l.mask, n, rows, c.out);
        s.counts[i] = count;
        C* mean = s.parts + i * 2 * p.growth;
        moments<C>(c.out, p.type, b.pixel, count, p.growth, mean, mean + p.growth);
      }
    });
    merge_moments<C>(s.parts, s.counts, all.count(), p.growth, p.growth, mean(prefix(layer)), variance(prefix(layer)));
  }

  // The dropout mask on the new features of one strip.
  void multiply(const Nhwc& mask, int64_t n, Share rows, void* out) const {
    Storage<C>::with(p.type, [&](auto* features) {
      features = static_cast<decltype(features)>(out);
      const auto* factor =
          static_cast<decltype(features)>(const_cast<void*>(mask.data)) + n * mask.image + rows.first * mask.row();
      for (int64_t i = 0; i < rows.size() * b.w; ++i)
        for (int64_t c = 0; c < p.growth; c += kLanes<C>) {
          auto* at = features + i * b.pixel + c;
          const int64_t left = p.growth - c;
          store_upto(at, load_upto(at, left) * load_upto(factor + i * mask.pixel + c, left), left);
        }
    });
  }

  void run() const {
    const Common s = common();
    char* base = static_cast<char*>(p.workspace) + s.bytes;
    copy_input(s);
    for (int64_t layer = 0; layer < p.layers; ++layer) {
      pack(layer, s);
      if (p.bottleneck) run1(layer, s, base);
      run3(layer, s, base);
    }
  }
};

}  // namespace

LIGHTOPS_CPU_OP(dense_block_train, DenseBlockTrainParams)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
