"""Faults planted into the running training path, each named for what it gets wrong, with the tests that must notice.

A fault patches a kernel of `lightops.ops.training`, or what `lightops.modules` does around kernels, for the life of the
process.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightops.modules import _flow, _train_reader, dense_block
from lightops.modules._flow import Flow, Pass
from lightops.ops import training
from lightops.ops.training._op import KERNELS

Plant = Callable[[], None]


def _results(change: Callable[[list[Any]], None], *ops: str) -> Plant:
    """`change` edits the list of results of the kernels of `ops`."""

    def plant() -> None:
        for op in ops:
            kernel = KERNELS[op]
            for place in ("native", "reference"):
                inner = getattr(kernel, place)
                if inner is not None:
                    setattr(kernel, place, _changed(inner, change))

    return plant


def _changed(inner: Callable[..., Any], change: Callable[[list[Any]], None]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        out = inner(*args)
        results = list(out) if isinstance(out, (tuple, list)) else [out]
        change(results)
        return tuple(results) if isinstance(out, (tuple, list)) else results[0]

    return run


def _arguments(change: Callable[[dict[str, Any]], None], *ops: str) -> Plant:
    """`change` edits the arguments of the kernels of `ops`, by name."""

    def plant() -> None:
        for op in ops:
            kernel = KERNELS[op]
            # The dispatcher holds the kernel's `__call__`, which looks these two up.
            kernel.reference = _with_arguments(kernel, kernel.native, kernel.reference, change)
            kernel.reason = lambda args: "planted"

    return plant


def _with_arguments(kernel: Any, native: Any, reference: Any, change: Callable[[dict[str, Any]], None]) -> Any:
    def run(*args: Any) -> Any:
        named = dict(zip(kernel.names, args, strict=True))
        change(named)
        values = list(named.values())
        return reference(*values) if native is None else native(*[values[i] for i in kernel._picks])

    return run


def _scaled(index: int, factor: float) -> Callable[[list[Any]], None]:
    def change(results: list[Any]) -> None:
        value = results[index]
        results[index] = [t * factor for t in value] if isinstance(value, list) else value * factor

    return change


def _zero_last_image(results: list[Any]) -> None:
    if results[0].dim() == 4:
        results[0] = torch.cat((results[0][:-1], torch.zeros_like(results[0][-1:])))


def _swap_vectors(results: list[Any]) -> None:
    results[1], results[2] = results[2], results[1]


_previous: dict[Any, Any] = {}


def _accumulates(results: list[Any]) -> None:
    """A gradient buffer that is not cleared between calls."""
    weight = results[3]
    key = tuple(weight.shape)
    results[3] = weight + _previous.get(key, 0)
    _previous[key] = weight


def _shared(index: int) -> Callable[[list[Any]], None]:
    """One buffer for all calls of a shape: it belongs to two graphs at once."""

    def change(results: list[Any]) -> None:
        value = results[index]
        kept = _previous.setdefault((index, tuple(value.shape), value.dtype), value)
        if kept is not value:
            with torch.no_grad():
                kept.view(-1).data.copy_(value.data.view(-1)) if kept.is_contiguous() else kept.data.copy_(value.data)
            results[index] = kept.detach()

    return change


def _first_kept(results: list[Any]) -> None:
    results[:] = _previous.setdefault(("statistics", tuple(results[0].shape)), list(results))


def _update_with(make: Callable[[float, int], tuple[float, float, float]]) -> Plant:
    """The running update `running = a * running + b * mean` (`c` for the variance), `make(factor, count) = a, b, c`."""

    def plant() -> None:
        def update(groups: dict[Any, Any]) -> None:
            for factor, count, means, variances, mean, var in groups.values():
                a, b, c = make(factor, count)
                for running, new, weight in ((means, mean, b), (variances, var, c)):
                    for old, latest in zip(running, new, strict=True):
                        old.mul_(a).add_(latest, alpha=weight)

        _flow._update = update

    return plant


def _commit_twice() -> None:
    commit = Pass.commit

    def twice(self: Pass, y: Tensor) -> Tensor:
        entries = list(self._entries)
        commit(self, y)
        self._entries = entries
        return commit(self, y)

    Pass.commit = twice


def _commit_at_once() -> None:
    note, commit = Pass.note, Pass.commit

    def at_once(self: Pass, *args: Any) -> None:
        note(self, *args)
        commit(self, args[1])

    Pass.note = at_once


def _no_commit() -> None:
    Pass.commit = lambda self, y: y


def _no_counter() -> None:
    factor = _flow._factor

    def without(module: Any) -> float:
        value = factor(module)
        if module.num_batches_tracked is not None:
            module.num_batches_tracked.sub_(1)
        return value

    _flow._factor = without


def _modes_read_once() -> None:
    read, seen = _train_reader.TrainReader.norm, {}

    def norm(self: Any, path: str) -> Any:
        found, act = read(self, path)
        return found._replace(batch=seen.setdefault(id(found.module), found.batch)), act

    _train_reader.TrainReader.norm = norm


def _tracking_ignored() -> None:
    read = _train_reader.TrainReader.norm

    def norm(self: Any, path: str) -> Any:
        found, act = read(self, path)
        return found._replace(tracks=found.batch and found.running_mean is not None), act

    _train_reader.TrainReader.norm = norm


def _residual_lost() -> None:
    def around(self: Flow, residual: bool, block: Callable[[Flow], Flow]) -> Flow:
        if not residual:
            return block(self)
        x = self.materialise()
        return self.plain(block(self.plain(x)).materialise(x.detach()))

    Flow.around = around


def _one_value_allowed() -> None:
    _flow.check_batch = dense_block.check_batch = lambda x: None


def _masks_in_one_layout() -> None:
    masks = dense_block._dropout_masks

    def drawn(flow: Flow, params: Any) -> list[Any]:
        return masks(Flow(flow.raw, Pass(nchw=not flow.forward.nchw)), params)

    dense_block._dropout_masks = drawn


def _detached_statistics() -> None:
    """The chain's gradients without the two terms that go through mean and variance."""
    prologue = Flow.prologue
    Flow.prologue = lambda self: prologue(self)._replace(batch=False)


def _weights_kept() -> None:
    """Weights of the first call, by shape."""
    conv, kept = training.bn_act_conv2d, {}

    def stale(x: Tensor, prologue: Any, weight: Tensor, *args: Any, **kwargs: Any) -> Any:
        first = kept.setdefault(tuple(weight.shape), weight.detach().clone())
        return conv(x, prologue, weight + (first - weight).detach(), *args, **kwargs)

    training.bn_act_conv2d = stale


BLOCKS, STEPS = "tests/modules/training/test_semantics.py", "a_step_is_stocks"
BACKWARDS = ("bn_act_conv2d_backward", "bn_act_backward", "bn_act_mean_backward", "bn_act_max_pool2d_backward")

# name: (what is planted, file, -k expression)
FAULTS: dict[str, tuple[Plant, str, str]] = {
    "gradient_halved": (_results(_scaled(0, 0.5), "bn_act_conv2d_backward"), BLOCKS, STEPS),
    "gradient_of_a_block_halved": (_results(_scaled(0, 0.5), "dense_block_train_backward"), BLOCKS, STEPS),
    "gradient_of_fire_halved": (_results(_scaled(0, 0.5), "fire_train_backward"), BLOCKS, STEPS),
    "gradient_off_by_one_ppm": (_results(_scaled(0, 1 + 1e-6), *BACKWARDS), BLOCKS, STEPS),
    "weight_gradient_negated": (_results(_scaled(3, -1.0), "bn_act_conv2d_backward"), BLOCKS, STEPS),
    "weight_gradients_of_a_block_negated": (_results(_scaled(1, -1.0), "dense_block_train_backward"), BLOCKS, STEPS),
    "bias_gradient_lost": (_results(_scaled(4, 0.0), "bn_act_conv2d_backward"), BLOCKS, STEPS),
    "bias_gradient_of_fire_lost": (_results(_scaled(4, 0.0), "fire_train_backward"), BLOCKS, STEPS),
    "last_image_without_gradient": (_results(_zero_last_image, *BACKWARDS), BLOCKS, STEPS),
    "gamma_and_beta_exchanged": (_results(_swap_vectors, *BACKWARDS), BLOCKS, STEPS),
    "gradient_accumulates": (_results(_accumulates, "bn_act_conv2d_backward"), BLOCKS, STEPS),
    "statistics_off": (_results(_scaled(-1, 1.001), "bn_act_conv2d", "batch_stats"), BLOCKS, STEPS),
    "statistics_kept": (_results(_first_kept, "batch_stats"), BLOCKS, STEPS),
    "frozen_backward": (_arguments(lambda a: a.update(batch=False), *BACKWARDS), BLOCKS, STEPS),
    "batch_backward_of_frozen_norms": (_arguments(lambda a: a.update(batch=True), *BACKWARDS), BLOCKS, "settings"),
    "activation_not_masked": (_arguments(lambda a: a.update(act=0), *BACKWARDS[:2]), BLOCKS, STEPS),
    "eps_of_backward_lost": (_arguments(lambda a: a.update(eps=0.0), *BACKWARDS), BLOCKS, STEPS),
    "detached_statistics": (_detached_statistics, BLOCKS, STEPS),
    "weight_gradient_of_a_stem_off": (
        _results(_scaled(1, 1 + 1e-6), "stem_train_backward"),
        "tests/ops/training/test_stem.py",
        "step_is_stocks",
    ),
    "places_of_a_stem_forgotten": (
        _results(_scaled(1, 0), "stem_train"),
        "tests/ops/training/test_stem.py",
        "step_is_stocks",
    ),
    "dropout_mask_lost_in_backward": (
        _arguments(lambda a: a.update(masks=[]), "dense_block_train_backward"),
        "tests/swap/test_training_networks.py",
        "dropout and torchvision",
    ),
    "buffer_shared_between_live_graphs": (_results(_shared(0), "dense_block_train"), BLOCKS, "two_forwards"),
    "middle_shared_between_live_graphs": (_results(_shared(1), "dense_block_train"), BLOCKS, "two_forwards"),
    "raw_output_shared": (_results(_shared(0), "bn_act_conv2d"), BLOCKS, "two_forwards"),
    "running_var_biased": (_update_with(lambda f, n: (1 - f, f, f)), BLOCKS, STEPS),
    "running_var_twice_unbiased": (_update_with(lambda f, n: (1 - f, f, f * (n / (n - 1)) ** 2)), BLOCKS, STEPS),
    "momentum_exchanged": (_update_with(lambda f, n: (f, 1 - f, (1 - f) * n / (n - 1))), BLOCKS, "settings"),
    "running_mean_not_decayed": (_update_with(lambda f, n: (1.0, f, f * n / (n - 1))), BLOCKS, STEPS),
    "statistics_updated_twice": (_commit_twice, BLOCKS, STEPS),
    "statistics_never_updated": (_no_commit, BLOCKS, STEPS),
    "statistics_updated_before_success": (_commit_at_once, "tests/modules/training/test_errors.py", "failure"),
    "batches_not_counted": (_no_counter, BLOCKS, STEPS),
    "modes_read_once": (_modes_read_once, BLOCKS, "read_at_every_call"),
    "tracking_ignored": (_tracking_ignored, BLOCKS, "settings"),
    "one_value_allowed": (_one_value_allowed, "tests/modules/training/test_errors.py", "one_value"),
    "gradient_of_the_residual_lost": (_residual_lost, BLOCKS, STEPS),
    "dropout_drawn_in_another_layout": (
        _masks_in_one_layout,
        "tests/swap/test_training_networks.py",
        "dropout and torchvision",
    ),
    "weights_of_the_first_call": (_weights_kept, BLOCKS, "evaluation_between_steps"),
}
