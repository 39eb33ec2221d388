"""The dense block in training, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from drawing import SENTINEL, Draw
from harness import nhwc_fields, pointer
from torch import Tensor
from torch.nn import functional as F

from training_cases.case import Output, TrainingCase, mean_and_size, var_and_size
from training_cases.gemm import operand_rounding, place_weight, weight_fields
from training_cases.norm_truth import Backward, Norm, backward, channel, slope, sums

WHOLE_AT_MOST = 256.0  # integers that bfloat16 holds without gaps


@dataclass
class Layer:
    norm1: Norm
    norm2: Norm | None
    w1: Tensor | None  # float64
    w2: Tensor
    mask: Tensor | None


@dataclass
class Block:
    """Weights and norms of a block, the dense tensors a forward pass writes, and how it is called."""

    d: Draw
    x: Tensor
    growth: int
    bottleneck: int
    buffer: Tensor
    middle: tuple[Tensor, ...]  # the 1x1 outputs, which lie one behind the other
    stats: list[Tensor]  # mean, var of the buffer, and of the 1x1 outputs [L, b]
    layers: list[Layer] = field(default_factory=list)

    def middles(self) -> Tensor:
        return self.middle[0].as_strided(
            (len(self.layers) * self.x.shape[0], *self.middle[0].shape[1:]), self.middle[0].stride()
        )

    def first(self, i: int) -> int:
        return self.x.shape[1] + i * self.growth

    def text(self) -> str:
        norms = "".join("b" if layer.norm1.batch else "f" for layer in self.layers)
        return f"x{tuple(self.x.shape)} k{self.growth} b{self.bottleneck} {norms} {self.d.dtype} tf32{self.d.tf32}"


def dense_map(n: int, c: int, h: int, w: int, dtype: torch.dtype) -> Tensor:
    return torch.full((n, h, w, c), float("nan"), dtype=dtype).permute(0, 3, 1, 2)


def draw_norm(d: Draw, mean: Tensor, var: Tensor) -> Norm:
    """Batch statistics, that are to be found at mean and var, or frozen ones; for the exact oracle frozen."""
    c = mean.shape[0]
    if d.exact:
        whole = torch.randint(-1, 2, (c,), generator=d.generator).float()
        gamma = torch.tensor([d.pick(0.5, 0.5, -0.5) for _ in range(c)])
        beta = torch.randint(-1, 2, (c,), generator=d.generator).float()
        return Norm(whole, torch.full((c,), 0.25), gamma, beta, 0.0, "relu", False)
    random = lambda: torch.randn(c, generator=d.generator)  # noqa: E731
    gamma, beta = (random(), random()) if d.chance(0.8) else (None, None)
    if d.chance(0.75):
        return Norm(mean, var, gamma, beta, 1e-5, "relu", True)
    return Norm(random(), torch.rand(c, generator=d.generator) + 0.1, gamma, beta, 1e-3, "relu", False)


def draw_block(d: Draw) -> Block:
    n, c0, k = d.between(1, 3), d.channels(40), d.pick(8, 8, 12, 16, 32)
    layers, bottleneck = d.between(1, 2 if d.exact else 3), d.pick(0, 2 * k, 4 * k)
    h, w = d.side(1, 9), d.side(1, 9)
    total = c0 + layers * k
    x = d.values(n, c0, h, w, low=-1, high=1)
    stats = [torch.full((s,), float("nan")) for s in (total, total, layers * bottleneck, layers * bottleneck)]
    middle = dense_map(layers * n, bottleneck, h, w, d.dtype).split(n)
    block = Block(d, x, k, bottleneck, dense_map(n, total, h, w, d.dtype), middle, stats)
    for i in range(layers):
        c, part = block.first(i), slice(i * bottleneck, (i + 1) * bottleneck)
        norm1 = draw_norm(d, stats[0][:c], stats[1][:c])
        norm2 = draw_norm(d, stats[2][part], stats[3][part]) if bottleneck else None
        inner = bottleneck or c
        sparse = {"low": -1, "high": 1}
        w1 = d.values(bottleneck, c, 1, 1, density=min(1.0, 2 / c), scale=c**-0.5, **sparse) if bottleneck else None
        w2 = d.values(k, inner, 3, 3, density=min(1.0, 0.2 / inner), scale=inner**-0.5 / 3, **sparse)
        mask = (torch.rand(n, k, h, w, generator=d.generator) < 0.5).double() * (1 if d.exact else 2)
        block.layers.append(Layer(norm1, norm2, w1, w2, mask if d.chance(0.3) else None))
    return block


def features(block: Block, layer: Layer, prefix: Tensor, middle: Tensor | None) -> tuple[Tensor, Tensor]:
    """A layer's new channels and the magnitude of their error, from what its last convolution reads."""
    norm, x = (layer.norm2, middle) if block.bottleneck else (layer.norm1, prefix)
    y, size = F.conv2d(norm.u(x), layer.w2, padding=1), F.conv2d(norm.z_size(x), layer.w2.abs(), padding=1)
    factor = 1 if layer.mask is None else layer.mask
    return y * factor, size * factor * operand_rounding(block.d)


def squeezed(block: Block, layer: Layer, prefix: Tensor) -> tuple[Tensor, Tensor]:
    """The 1x1 output before its norm."""
    norm = layer.norm1
    size = F.conv2d(norm.z_size(prefix), layer.w1.abs()) * operand_rounding(block.d)
    return F.conv2d(norm.u(prefix), layer.w1), size


def forward_(block: Block, dtype: torch.dtype) -> float:
    """Fills buffer, middle and stats with a forward pass rounded to `dtype`; the largest value there is returned."""
    most, c = 0.0, block.x.shape[1]
    block.buffer[:, :c] = block.x.to(dtype)
    fill_stats_(block.stats[0][:c], block.stats[1][:c], block.buffer[:, :c])
    for i, layer in enumerate(block.layers):
        c = block.first(i)
        prefix, part = block.buffer[:, :c].double(), slice(i * block.bottleneck, (i + 1) * block.bottleneck)
        most = max(most, layer.norm1.z_size(prefix).max().item())
        if block.bottleneck:
            block.middle[i].copy_(squeezed(block, layer, prefix)[0].to(dtype))
            fill_stats_(block.stats[2][part], block.stats[3][part], block.middle[i])
            most = max(most, layer.norm2.z_size(block.middle[i].double()).max().item())
        new = block.buffer[:, c : c + block.growth]
        new.copy_(features(block, layer, prefix, block.middle[i].double())[0].to(dtype))
        fill_stats_(block.stats[0][c : c + block.growth], block.stats[1][c : c + block.growth], new)
    return max(most, block.buffer.abs().max().item())


def fill_stats_(mean: Tensor, var: Tensor, y: Tensor) -> None:
    mean.copy_(y.double().mean((0, 2, 3)))
    var.copy_(y.double().var((0, 2, 3), correction=0))


def clear_(block: Block) -> None:
    for t in (block.buffer, *block.middle, *block.stats):
        t.fill_(float("nan"))


def layer_fields(case: TrainingCase, block: Block) -> tuple[list[int], tuple]:
    """For the harness, and the lists of the operator's schema from `params` on."""
    d, fields = block.d, []
    params, eps, frozen, masks = [], [], [], []
    for layer in block.layers:
        absent = Norm(None, None, None, None, 0.0, "relu", False)
        weights = [None if w is None else place_weight(d, w) for w in (layer.w1, layer.w2)]
        for norm, weight in zip((layer.norm1, layer.norm2 or absent), weights, strict=True):
            fields += norm.fields()
            if norm.mean is not None:
                params += [norm.gamma, norm.beta]
                eps.append(norm.eps)
                frozen += [None, None] if norm.batch else [norm.mean, norm.var]
            params += [] if weight is None else [weight]
            for label, vector in norm.vectors().items():
                if vector is not None and not (norm.batch and label in ("mean", "var")):
                    case.read(vector, label)
        for placed in weights:
            case.read(placed, "weight")
            fields += [0] * 5 if placed is None else weight_fields(placed)
        mv, mw = (None, None) if layer.mask is None else d.place(layer.mask)
        case.read(mw, "mask")
        masks.append(mv)
        fields += nhwc_fields(mv)
    return fields, (params, eps, frozen, masks, block.growth, block.bottleneck, 0)


def block_fields(block: Block, x: Tensor | None, known: bool) -> list[int]:
    sizes = [block.x.shape[1], block.growth, block.bottleneck, len(block.layers), int(known)]
    middle = block.middle[0].data_ptr() if block.bottleneck else 0
    return [*nhwc_fields(x), *nhwc_fields(block.buffer), *sizes, middle, *map(pointer, block.stats)]


def dense_block_train(seed: int) -> TrainingCase:
    """Each layer's truth is computed from what the kernels themselves left before it, so each is held to its own
    bound."""
    d = Draw(seed)
    block = draw_block(d)
    case = TrainingCase("dense_block_train", d, block.text())
    case.exact = d.exact and forward_(block, d.dtype) <= WHOLE_AT_MOST
    clear_(block)
    xv, xw = d.place(block.x)
    case.read(xw, "x")
    known, c0 = d.chance(0.4), block.x.shape[1]
    if known:
        fill_stats_(block.stats[0][:c0], block.stats[1][:c0], block.x)

    def written(what: int) -> Tensor:
        parts, sizes = [block.x], [torch.zeros_like(block.x)]
        for i, layer in enumerate(block.layers):
            prefix = block.buffer[:, : block.first(i)].double()
            pair = features(block, layer, prefix, block.middle[i].double())
            parts.append(pair[0]), sizes.append(pair[1])
        return torch.cat((parts, sizes)[what], 1)

    def output(name: str, view: Tensor, truth, exact: bool = True) -> None:
        case.outputs.append(Output(name, view, view, lambda: truth(0), lambda: truth(1), exact))

    output("buffer", block.buffer, written)
    case.regions.append((block.buffer, True, "buffer"))
    if block.bottleneck:

        def squeezed_all(what: int) -> Tensor:
            pairs = [squeezed(block, s, block.buffer[:, : block.first(i)].double()) for i, s in enumerate(block.layers)]
            return torch.cat([pair[what] for pair in pairs])

        case.regions.append((block.middles(), True, "middle"))
        output("middle", block.middles(), squeezed_all)
    of = [(block.buffer,), (block.buffer,), block.middle, block.middle]
    for name, stats, truth, maps in zip(
        ("mean", "var", "middle_mean", "middle_var"),
        block_stats(block),
        (mean_and_size, var_and_size) * 2,
        of,
        strict=True,
    ):
        if stats.numel():
            case.regions.append((stats, True, name))
            output(
                name,
                stats,
                lambda what, truth=truth, maps=maps, shape=stats.shape: torch.cat([truth(m)[what] for m in maps]).view(
                    shape
                ),
                False,
            )
    fields, lists = layer_fields(case, block)
    case.fields += [*block_fields(block, xv, known), *fields]
    case.schema = (xv, *(stats[:c0].clone() if known else None for stats in block.stats[:2]), *lists)
    return case


@dataclass
class Chain:
    """A gradient and its error, in the units of TrainingCase.check.

    Errors that many values bring into a sum go on by the root of their squares: each is at most a quarter of what it is
    put down with, and their signs are their own. Added up as magnitudes they would outgrow the result within a layer,
    and the bound could not fail. What float32 sums add themselves is bound by magnitudes, as everywhere.
    """

    value: Tensor
    size: Tensor


def rooted(squares: Tensor) -> Tensor:
    """Sums of squares that a convolution algorithm may have left a little below zero."""
    return squares.clamp(min=0).sqrt()


def stored(block: Block) -> float:
    """Of a value that is stored in the case's type."""
    return 1.0 if block.d.tf32 else operand_rounding(block.d)


def multiplied(block: Block) -> float:
    """Of an operand that is rounded once more on its way into a product."""
    return operand_rounding(block.d) if block.d.tf32 else 0.0


def through(block: Block, dy: Chain, weight: Tensor, padding: int) -> Chain:
    """Input gradient of a convolution, stored in the case's type."""
    back = lambda t, w: F.conv_transpose2d(t, w, padding=padding)  # noqa: E731
    value = back(dy.value, weight)
    operands = dy.size.square() + 2 * (multiplied(block) * dy.value).square()  # of dy and of the weight
    size = rooted(back(operands, weight.square())) + back(dy.value.abs(), weight.abs())
    return Chain(value, size + stored(block) * value.abs())


def weight_gradient(block: Block, norm: Norm, x: Tensor, dy: Chain, shape: torch.Size, padding: int) -> Chain:
    gradient = lambda u, t: torch.nn.grad.conv2d_weight(u, shape, t, padding=padding)  # noqa: E731
    u = norm.u(x)
    squares = gradient(u.square(), dy.size.square() + (multiplied(block) * dy.value).square())
    squares = squares + gradient((operand_rounding(block.d) * u).square(), dy.value.square())
    return Chain(gradient(u, dy.value), rooted(squares) + gradient(norm.z_size(x), dy.value.abs()))


def through_norm(n: Norm, x: Tensor, du: Chain) -> tuple[Backward, dict[str, Chain]]:
    """`backward`, whose magnitudes are float32's, and the errors of du; the gradients of gamma and beta."""
    b = backward(n, x, du.value, du.value.abs())
    count, off = x.numel() // x.shape[1], (x - n.column("mean")) * n.inverse()
    error = du.size * slope(n.z(x), n.act)
    dbeta, dgamma = rooted(sums(error.square())), rooted(sums((error * off).square()))
    squares = error.square()
    if n.batch:
        squares = squares + (channel(dbeta) / count).square() + (off * channel(dgamma) / count).square()
    b.dx_size = b.dx_size + n.column("gamma", 1.0).abs() * n.inverse() * rooted(squares)
    return b, {"gamma": Chain(b.dgamma, b.dgamma_size + dgamma), "beta": Chain(b.dbeta, b.dbeta_size + dbeta)}


def backward_truth(block: Block, dbuffer: Tensor) -> tuple[Chain, list[dict[str, Chain]], float]:
    """dx, the gradients of each layer's parameters, and the largest value that is stored on the way."""
    rounding, most = stored(block), 0.0
    # What the means of the norms take away is added last: until then `partial` is what the gradient buffer holds.
    total, partial = Chain(dbuffer.clone(), torch.zeros_like(dbuffer)), dbuffer.clone()
    grads: list[dict[str, Chain]] = []
    for i in reversed(range(len(block.layers))):
        layer, c = block.layers[i], block.first(i)
        new = slice(c, c + block.growth)
        factor = 1 if layer.mask is None else layer.mask
        dy = Chain(total.value[:, new] * factor, (total.size[:, new] + rounding * total.value[:, new].abs()) * factor)
        prefix, middle = block.buffer[:, :c].double(), block.middle[i].double()
        found: dict[str, Chain] = {}
        norm, x = (layer.norm2, middle) if block.bottleneck else (layer.norm1, prefix)
        found["weight2"] = weight_gradient(block, norm, x, dy, layer.w2.shape, 1)
        du = through(block, dy, layer.w2, 1)
        most = max(most, du.value.abs().max().item())
        if block.bottleneck:
            b, vectors = through_norm(layer.norm2, middle, du)
            found |= {f"{name}2": chain for name, chain in vectors.items()}
            gained = layer.norm2.column("gamma", 1.0) * layer.norm2.inverse() * b.dz
            dmiddle = Chain(b.dx, b.dx_size + rounding * (b.dx.abs() + gained.abs()))
            found["weight1"] = weight_gradient(block, layer.norm1, prefix, dmiddle, layer.w1.shape, 0)
            du = through(block, dmiddle, layer.w1, 0)
            most = max(most, du.value.abs().max().item(), dmiddle.value.abs().max().item())
        b, vectors = through_norm(layer.norm1, prefix, du)
        found |= {f"{name}1": chain for name, chain in vectors.items()}
        partial[:, :c] += layer.norm1.column("gamma", 1.0) * layer.norm1.inverse() * b.dz
        total.value[:, :c] += b.dx
        errors = total.size[:, :c].square() + b.dx_size.square() + (rounding * partial[:, :c]).square()
        total.size[:, :c] = errors.sqrt()
        most = max(most, partial[:, :c].abs().max().item())
        grads.insert(0, found)
    c0 = block.x.shape[1]
    return Chain(total.value[:, :c0], total.size[:, :c0]), grads, most


def dense_block_train_backward(seed: int) -> TrainingCase:
    d = Draw(seed)
    block = draw_block(d)
    most = forward_(block, d.dtype)
    dbuffer = d.values(*block.buffer.shape, low=-1, high=1)
    case = TrainingCase("dense_block_train_backward", d, block.text())
    dx, grads, stored = backward_truth(block, dbuffer)
    case.exact = d.exact and max(most, stored) <= WHOLE_AT_MOST
    for tensor, label in zip((block.buffer, *block.stats), ("buffer", "mean", "var", "mean2", "var2"), strict=True):
        if tensor.numel():
            case.read(tensor, label)
    if block.bottleneck:
        case.read(block.middles(), "middle")
    gv, gw = d.place(dbuffer)
    case.read(gw, "dbuffer")
    gradient = torch.full((dbuffer.numel(),), SENTINEL, dtype=d.dtype)
    dmiddle = torch.full((block.middle[0].numel(),), SENTINEL, dtype=d.dtype)
    for scratch, label in ((gradient, "gradient"), (dmiddle, "dmiddle")):
        if scratch.numel():
            case.regions.append((scratch, True, label))
            case.keep.append(scratch)
    wanted = case.image("dx", dx.value, dx.size) if d.chance(0.85) else None
    fields, lists = layer_fields(case, block)
    case.fields += [*block_fields(block, None, True), *fields, *nhwc_fields(gv)]
    case.fields += [*nhwc_fields(wanted), pointer(gradient), pointer(dmiddle)]
    needs = [wanted is not None]
    for i, found in enumerate(grads):
        layer = block.layers[i]
        affine = {"1": layer.norm1.gamma, "2": layer.norm2 and layer.norm2.gamma}
        for name in ("gamma1", "beta1", "weight1", "gamma2", "beta2", "weight2"):
            weight, there = "weight" in name, name in found
            need = there and (weight or affine[name[-1]] is not None) and not d.chance(0.1)
            needs += [need] if there else []
            dtype = d.dtype if weight else torch.float32
            out = case.flat(f"d{name} of layer {i}", found[name].value, found[name].size, dtype) if need else None
            case.fields.append(pointer(out))
    case.schema = (
        gv,
        block.buffer,
        block.middles() if block.bottleneck else block.buffer[:0],
        *block_stats(block),
        *lists,
        needs,
    )
    return case


def block_stats(block: Block) -> list[Tensor]:
    """As the operators return them."""
    return [*block.stats[:2], *(s.view(len(block.layers), block.bottleneck) for s in block.stats[2:])]


CASES = (dense_block_train, dense_block_train_backward)
