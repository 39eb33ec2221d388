"""A call of `dense_block_train` and its derivative, and what their results are judged by: layer by layer in float64,
from the tensors that the kernel itself kept.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightops.testing.oracle import winograd_magnitude
from tests.ops.training.oracle import (
    DX_FACTOR,
    Norm,
    accumulate,
    affine,
    bounded,
    gradients,
    magnitude_norm_backward,
    magnitude_u,
    row,
    run,
)
from tests.ops.training.wgrad3x3 import winograd_wgrad_magnitude


class Block(NamedTuple):
    """The arguments of the op behind x, mean_x and var_x."""

    params: list[Tensor | None]
    eps: list[float]
    frozen: list[Tensor | None]
    masks: list[Tensor | None]
    growth: int
    bottleneck: int
    algo: int

    @property
    def each(self) -> int:
        """Parameters of a layer."""
        return 6 if self.bottleneck else 3

    @property
    def layers(self) -> int:
        return len(self.params) // self.each

    def weight(self, layer: int, place: int) -> Tensor:
        """In float64; `place` counts within the layer."""
        return self.params[self.each * layer + place].double()

    def norms(self, layer: int, buffer: Tensor, middle: Tensor) -> tuple[Norm, Norm | None]:
        """The layer's norms with the statistics of the tensors as they are, in float64."""
        many = 2 if self.bottleneck else 1
        made: list[Norm | None] = []
        for i, x in enumerate((buffer, middle)[:many]):
            gamma, beta = self.params[self.each * layer + 3 * i : self.each * layer + 3 * i + 2]
            place = 2 * (many * layer + i)
            mean, var = self.frozen[place : place + 2] if self.frozen else (None, None)
            batch = mean is None
            if batch:
                mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
            made.append(Norm(mean, var, gamma, beta, self.eps[many * layer + i], "relu", batch).double())
        return made[0], made[1] if self.bottleneck else None

    def mask(self, layer: int) -> Tensor | float:
        found = self.masks[layer] if self.masks else None
        return 1.0 if found is None else found.double()


def draw(shape, dtype, *, seed=0, frozen=False, dropout=False, affine=True, algo=2) -> tuple[Tensor, Block]:
    n, c, h, w, layers, k, b = shape
    g = torch.Generator().manual_seed(seed)
    to = accumulate(dtype)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=g, dtype=torch.float64)

    def norm(channels: int) -> list[Tensor | None]:
        return [normal(channels).to(to), normal(channels).to(to)] if affine else [None, None]

    x = (normal(n, c, h, w) + normal(1, c, 1, 1)) * 10 ** (normal(1, c, 1, 1) / 3)
    params: list[Tensor | None] = []
    stats: list[Tensor | None] = []
    masks: list[Tensor | None] = []
    for layer in range(layers):
        width = c + layer * k
        params += norm(width)
        if b:
            params += [(normal(b, width, 1, 1) / width**0.5).to(dtype), *norm(b)]
        fan = 9 * (b or width)
        params.append((normal(k, b or width, 3, 3) / fan**0.5).to(dtype))
        for i, channels in enumerate((width, b) if b else (width,)):
            fixed = frozen and (layer + i) % 2 == 0
            stats += [normal(channels).to(to), (normal(channels) ** 2 + 0.5).to(to)] if fixed else [None, None]
        keep = (torch.rand((n, k, h, w), generator=g) > 0.3).double() / 0.7
        drop = keep.to(dtype).contiguous(memory_format=torch.channels_last)
        masks.append(drop if dropout and layer % 2 == 0 else None)
    block = Block(
        params,
        [1e-5] * (layers * (2 if b else 1)),
        stats if frozen else [],
        masks if dropout else [],
        k,
        b,
        0 if dtype == torch.float64 else algo,
    )
    return x.to(dtype).contiguous(memory_format=torch.channels_last), block


def conv3_magnitude(s: Tensor, weight: Tensor, algo: int) -> Tensor:
    return winograd_magnitude(s, weight, 2, (1, 1)) if algo else F.conv2d(s, weight.abs(), padding=1)


def turned(weight: Tensor) -> Tensor:
    """The weight that the gradient of the input is convolved with."""
    return weight.transpose(0, 1).flip(2, 3)


def activate(x: Tensor, n: Norm) -> Tensor:
    return affine(x, n).relu()


def check_forward(x: Tensor, block: Block, out: tuple[Tensor, ...]) -> None:
    """Each tensor against the ones that the kernel itself put before it."""
    buffer, middle, mean, var, middle_mean, middle_var = out
    exact_buffer, exact_middle = buffer.double(), middle.double()
    count, c = len(x), x.shape[1]
    assert torch.equal(buffer[:, :c], x)
    for layer in range(block.layers):
        prefix = exact_buffer[:, : c + layer * block.growth]
        raw = exact_middle[layer * count : (layer + 1) * count]
        first, second = block.norms(layer, prefix, raw)
        inner, n, weight = prefix, first, block.weight(layer, block.each - 1)
        if second is not None:
            w1 = block.weight(layer, 2)
            s = F.conv2d(magnitude_u(prefix, first), w1.abs())
            bounded(
                middle[layer * count : (layer + 1) * count],
                F.conv2d(activate(prefix, first), w1),
                s,
                w1[0].numel(),
            )
            inner, n = raw, second
        s = conv3_magnitude(magnitude_u(inner, n), weight, block.algo) * block.mask(layer)
        new = F.conv2d(activate(inner, n), weight, padding=1) * block.mask(layer)
        own = slice(c + layer * block.growth, c + (layer + 1) * block.growth)
        bounded(buffer[:, own], new, s, weight[0].numel(), 2.0 if block.masks else 1.0)
    check_statistics(exact_buffer, mean, var)
    for layer in range(block.layers if block.bottleneck else 0):
        check_statistics(exact_middle[layer * count : (layer + 1) * count], middle_mean[layer], middle_var[layer])


def check_statistics(x: Tensor, mean: Tensor, var: Tensor) -> None:
    expected = x.mean((0, 2, 3))
    bounded(mean, expected, x.abs().mean((0, 2, 3)))
    spread = (x - row(expected)).abs()
    # The square of a difference that is rounded relative to its terms. E[x^2] - E[x]^2 would err by their squares.
    s = (spread**2 + spread * (x.abs() + row(expected).abs())).mean((0, 2, 3))
    bounded(var, x.var((0, 2, 3), correction=0), s)


class Gradients(NamedTuple):
    dx: Tensor
    params: list[Tensor | None]


def backward_truth(dbuffer: Tensor, saved: tuple[Tensor, ...], block: Block) -> tuple[Gradients, Gradients]:
    """The gradients from the tensors that the kernel kept, and their magnitudes, layer by layer in float64.

    S of a layer is taken from the exact gradient that comes into it, not from that gradient's own S: compounded over
    three layers it would be a million times the result, and the bound could not fail. What errors of earlier layers add
    is within the margin: at most 3.3 u S of 32 in float32 and float64, 1.1 of 8 in 16 bits, over all instruction sets
    and shapes here. Within a layer errors go on, by the root of their squares: of two pixels a batch norm passes next
    to nothing on but errors.
    """
    buffer, middle = saved[0].double(), saved[1].double()
    each, count, c = block.each, len(buffer), buffer.shape[1] - block.layers * block.growth
    g, s_g = dbuffer.double().clone(), dbuffer.double().abs()
    params: list[Tensor | None] = [None] * len(block.params)
    sizes: list[Tensor | None] = [None] * len(block.params)

    def through(x: Tensor, n: Norm, weight: Tensor, dy: Tensor, error: Tensor, at: int, padding: int) -> tuple:
        """dx of conv(relu(bn(x))) and its S; those of the parameters are put at params[at:]. `error` is the S of dy."""

        def forward(x, gamma, beta, weight):
            mean, var = (x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)) if n.batch else (n.mean, n.var)
            return F.conv2d(
                activate(x, n._replace(mean=mean, var=var, gamma=gamma, beta=beta)), weight, padding=padding
            )

        dx, *params[at : at + 3] = gradients(forward, [x, n.gamma, n.beta, weight], dy)
        u, s_dy, algo = magnitude_u(x, n), dy.abs(), block.algo if padding else 0
        error = error.square()
        if padding:
            s_du = conv3_magnitude(s_dy, turned(weight), algo)
            w_size = torch.nn.grad.conv2d_weight(u, weight.shape, s_dy, padding=1)
            sizes[at + 2] = torch.maximum(w_size, winograd_wgrad_magnitude(u, s_dy)) if algo else w_size
        else:
            s_du = F.conv2d(s_dy, turned(weight.abs()))
            sizes[at + 2] = torch.nn.grad.conv2d_weight(u, weight.shape, s_dy)
        s_du = s_du + F.conv2d(error, turned(weight.square()), padding=padding).sqrt()
        sizes[at + 2] += torch.nn.grad.conv2d_weight(u.square(), weight.shape, error, padding=padding).sqrt()
        s_dx, sizes[at], sizes[at + 1] = magnitude_norm_backward(x, n, s_du)
        return dx, s_dx

    for layer in reversed(range(block.layers)):
        width = c + layer * block.growth
        own = slice(width, width + block.growth)
        prefix, raw = buffer[:, :width], middle[layer * count : (layer + 1) * count]
        first, second = block.norms(layer, prefix, raw)
        dy = g[:, own] * block.mask(layer)
        error = torch.zeros_like(dy)
        if second is not None:
            dy, error = through(raw, second, block.weight(layer, 5), dy, error, each * layer + 3, 1)
        padding = 0 if block.bottleneck else 1
        dx, s_dx = through(prefix, first, block.weight(layer, 2), dy, error, each * layer, padding)
        g[:, :width] += dx
        s_g[:, :width] += s_dx
    return Gradients(g[:, :c], params), Gradients(s_g[:, :c], sizes)


def close_to_kink(saved: tuple[Tensor, ...], block: Block) -> bool:
    """Whether an activation's input lies so close to zero that either side is right."""
    buffer, middle = saved[0].double(), saved[1].double()
    for layer in range(block.layers):
        width, count = buffer.shape[1] - (block.layers - layer) * block.growth, len(buffer)
        tensors = (buffer[:, :width], middle[layer * count : (layer + 1) * count])
        for x, n in zip(tensors, block.norms(layer, *tensors), strict=True):
            if n is not None and x.numel():
                unit = 2.0**-53 if saved[2].dtype == torch.float64 else 2.0**-24
                if (affine(x, n).abs() < 4 * unit * magnitude_u(x, n)).any():
                    return True
    return False


def without_kinks(shape, dtype, **options) -> tuple[Tensor, Block, tuple[Tensor, ...]]:
    for seed in range(20):
        x, block = draw(shape, dtype, seed=seed, **options)
        saved = run("dense_block_train", x, None, None, *block)
        if not close_to_kink(saved, block):
            return x, block, saved
    raise AssertionError("every draw has an activation input at zero")


def check_backward(dx: Tensor, dparams: list[Tensor], dbuffer: Tensor, saved, block: Block) -> None:
    truth, size = backward_truth(dbuffer, saved, block)
    terms = saved[0].numel() // saved[0].shape[1]
    bounded(dx, truth.dx, size.dx, terms, DX_FACTOR)
    for i, (actual, expected, s) in enumerate(zip(dparams, truth.params, size.params, strict=True)):
        if block.params[i] is None:
            assert actual.numel() == 0
            continue
        assert actual.dtype == block.params[i].dtype, i
        bounded(actual, expected, s, terms, DX_FACTOR)
