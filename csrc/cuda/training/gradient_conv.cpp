#include "training/gradient_conv.h"

namespace lightops::cuda {
namespace {

// Scale, shift and mean of the block's columns, of the widest tile.
constexpr int kNormBytes = 3 * 128 * 4;

bool dense_images(const Nhwc& t) { return t.n <= 1 || t.image == t.h * t.w * t.pixel; }

}  // namespace

GradientPlan plan_gradient(const GradientProblem& p, const Device& device) {
  GradientPlan plan;
  Device rest = device;
  rest.shared_limit -= kNormBytes;
  ConvProblem conv = p.conv;
  conv.tiny = false;  // not built: what goes through the norm would be read by twice as many blocks
  const bool taps = conv.window.kernel[0] > 0 && conv.window.kernel[1] > 0;
  if (!taps) conv.window = Window{};
  plan.conv = plan_conv(conv, rest);
  const ConvPlan& c = plan.conv;
  const bool flat = c.load == Load::pointwise;
  if (c.refusal || c.splits > 1 || (!flat && c.load != Load::spatial) || (flat && !dense_images(p.x))) return plan;
  if (flat && c.shape == Shape::compact) return plan;  // not built: without a norm in the loader the others fit 99 KiB

  plan.conv.shared += kNormBytes;
  GradientArgs& a = plan.args;
  a.conv = c.args;
  if (!taps) a.conv.chunks = a.conv.steps = 0;
  const Lattice& l = p.conv.lattice;
  a.map_width = l.width ? static_cast<int>(l.width) : a.conv.out.width;
  a.step_h = static_cast<int>(l.step[0]), a.step_w = static_cast<int>(l.step[1]);
  a.first_h = static_cast<int>(l.first[0]), a.first_w = static_cast<int>(l.first[1]);
  a.x = view_of(p.x, p.conv.element_bytes);
  a.x.height = a.conv.out.height;
  a.x.width = a.conv.out.width;
  a.scale = p.scale;
  a.shift = p.shift;
  a.mean = p.mean;
  a.act = static_cast<int>(p.act);
  a.scaled = p.scaled;
  a.sums = p.sums;
  plan.parts = static_cast<int>(c.blocks / c.args.column_tiles);
  return plan;
}

Result launch_gradient(const GradientPlan& plan, DType type, const Device& device, StreamHandle stream) {
  switch (arithmetic_of(type, device)) {
    case Arithmetic::f16: return launch_gradient_f16(plan, stream);
    case Arithmetic::bf16: return launch_gradient_bf16(plan, stream);
    case Arithmetic::tf32: return launch_gradient_tf32(plan, stream);
    case Arithmetic::f32: return launch_gradient_f32(plan, stream);
  }
  return {"unknown arithmetic", 0};
}

}  // namespace lightops::cuda
