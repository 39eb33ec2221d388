"""One training run in memory: network, optimizer, schedule, data order, and everything a continuation needs."""

import math
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightops.train.data import Data, loader
from lightops.train.network import input_channels

DTYPES = {"fp32": None, "bf16": torch.bfloat16}
OPTIMIZERS = ("sgd", "adamw")
# Peak rates. A SqueezeNet (no BatchNorm, a ReLU on its logits) does not start learning under SGD: at 0.005 to 0.01 its
# loss stays at ln(10) for hundreds of steps, above that the logits die; AdamW gets it going.
RATES = {"sgd": 0.1, "adamw": 1e-3}
MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4
_TEST_BATCH = 500


class Diverged(RuntimeError):
    """The loss is not a number any more."""


@dataclass(frozen=True)
class Settings:
    """How to train.

    `optimizer` "sgd" has Nesterov momentum; None: sgd for a network with BatchNorm, else adamw. `lr` is the peak of a
    one-cycle schedule; None: 0.1 for sgd, 0.001 for adamw. `dtype` "bf16" is autocast: parameters and statistics stay
    float32.
    """

    epochs: int = 5
    batch: int = 128
    optimizer: str | None = None
    lr: float | None = None
    dtype: str = "fp32"
    seed: int = 0
    workers: int = 0
    device: str = "cpu"


class Listener:
    """Told what goes on; does nothing by itself."""

    def steps(self, batches: Iterable, title: str) -> Iterable:
        """Wraps the batches of an epoch, to show progress."""
        return batches

    def loss(self, value: float) -> None:
        """The loss of a training step."""


class Trainer:
    """Trains `model`, as it is given (stock or swapped), on `data`: cross entropy, a one-cycle schedule.

    Seeds torch's and Python's generators: two trainers with equal settings, data and initial weights do the same, bit
    for bit, on one machine and number of threads.
    """

    def __init__(self, model: nn.Module, data: Data, settings: Settings, listener: Listener | None = None) -> None:
        self.settings, self.data, self.listener = settings, data, listener or Listener()
        self.device = torch.device(settings.device)
        self.model = model.to(device=self.device, memory_format=torch.channels_last)
        self.dtype = next(model.parameters()).dtype
        # Grey pictures for a network of three channels.
        self.channels = input_channels(model) if data.channels == 1 else None
        self.order = torch.Generator().manual_seed(settings.seed)
        self.batches = loader(data.train, min(settings.batch, len(data.train)), self.order, settings.workers)
        self.tests = loader(data.test, _TEST_BATCH, workers=settings.workers)
        self.epoch = 0
        kind = settings.optimizer or default_optimizer(model)
        self.lr = settings.lr or RATES[kind]
        self.optimizer = _optimizer(kind, model, self.lr)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, self.lr, epochs=settings.epochs, steps_per_epoch=len(self.batches)
        )
        torch.manual_seed(settings.seed)
        random.seed(settings.seed)

    def train_epoch(self) -> dict[str, Any]:
        """Trains one epoch and returns its record. Raises `Diverged`."""
        started = time.perf_counter()
        self.model.train()
        total = correct = seen = 0
        for images, labels in self.listener.steps(self.batches, f"epoch {self.epoch + 1}/{self.settings.epochs}"):
            loss, right = self._step(images, labels)
            total, correct, seen = total + loss * len(labels), correct + right, seen + len(labels)
        seconds = time.perf_counter() - started
        self.epoch += 1
        return {
            "epoch": self.epoch,
            "train_loss": total / seen,
            "train_accuracy": correct / seen,
            "lr": self.schedule.get_last_lr()[0],
            "images_per_s": round(seen / seconds, 1),
            "seconds": round(seconds, 2),
        }

    def test(self) -> dict[str, float]:
        """Mean loss and accuracy on the test set, in evaluation mode."""
        self.model.eval()
        total = correct = seen = 0
        with torch.inference_mode():
            for images, labels in self.tests:
                answer, labels = self._forward(images), labels.to(self.device)
                total += F.cross_entropy(answer, labels, reduction="sum").item()
                correct += (answer.argmax(1) == labels).sum().item()
                seen += len(labels)
        return {"test_loss": total / seen, "test_accuracy": correct / seen}

    def state(self) -> dict[str, Any]:
        """Everything that `load` needs to go on as if nothing had happened."""
        cuda = torch.cuda.get_rng_state_all() if self.device.type == "cuda" else []
        return {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "rng": {
                "torch": torch.get_rng_state(),
                "order": self.order.get_state(),
                "python": random.getstate(),
                "cuda": cuda,
            },
        }

    def load(self, state: dict[str, Any]) -> None:
        """Goes back to a `state`."""
        self.epoch = state["epoch"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        rng = state["rng"]
        torch.set_rng_state(rng["torch"])
        self.order.set_state(rng["order"])
        random.setstate(rng["python"])
        if rng["cuda"]:
            torch.cuda.set_rng_state_all(rng["cuda"])

    def _step(self, images: Tensor, labels: Tensor) -> tuple[float, int]:
        labels = labels.to(self.device)
        answer = self._forward(images)
        loss = F.cross_entropy(answer, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        value = loss.item()
        if not math.isfinite(value):
            raise Diverged(
                f"the loss is {value} in epoch {self.epoch + 1} at learning rate {self.schedule.get_last_lr()[0]:.3g}; "
                "a lower one may help"
            )
        self.listener.loss(value)
        return value, (answer.argmax(1) == labels).sum().item()

    def _forward(self, images: Tensor) -> Tensor:
        if self.channels:
            images = images.expand(-1, self.channels, -1, -1)
        images = images.to(self.device, self.dtype).contiguous(memory_format=torch.channels_last)
        autocast = DTYPES[self.settings.dtype]
        with torch.autocast(self.device.type, autocast or torch.bfloat16, enabled=autocast is not None):
            # The loss is never taken in 16 bits.
            return self.model(images).to(self.dtype)


def default_optimizer(model: nn.Module) -> str:
    """What trains a network where nothing else is asked for."""
    normed = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    return "sgd" if normed else "adamw"


def _optimizer(kind: str, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    if kind == "adamw":
        return torch.optim.AdamW(model.parameters(), lr, weight_decay=WEIGHT_DECAY)
    return torch.optim.SGD(model.parameters(), lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True)
