"""Trains lightops.networks.densenet_fashion on Fashion-MNIST in stock PyTorch and writes its checkpoint and log.

    python benchmarks/train_fashion_densenet.py --out lightops/data/densenet_fashion.pt

made the checkpoint in the package; benchmarks/train_fashion_densenet.jsonl is the log of that run. One thread and one
seed: a run on the same machine and torch gives the same weights.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from lightops.data import fashion_mnist
from lightops.networks import densenet_fashion

HERE = Path(__file__).resolve().parent


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch: int = 500) -> float:
    """Share of ``labels`` that the model in eval mode names."""
    model.eval()
    with torch.inference_mode():
        named = torch.cat([model(part).argmax(1) for part in images.split(batch)])
    return (named == labels).double().mean().item()


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrors half of the pictures: clothes have no handedness."""
    mirrored = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(mirrored, images.flip(3), images)


def train(options: argparse.Namespace) -> tuple[nn.Module, list[dict[str, object]]]:
    """The trained model, and one record for the run and one per epoch."""
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    train_images, train_labels = fashion_mnist.load("train", options.data)
    test_images, test_labels = fashion_mnist.load("test", options.data)
    train_images, test_images = map(fashion_mnist.normalise, (train_images, test_images))
    model = densenet_fashion().to(memory_format=torch.channels_last)
    steps = len(train_images) // options.batch
    optimizer = torch.optim.SGD(model.parameters(), lr=options.lr, momentum=0.9, weight_decay=1e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=options.epochs * steps)
    log: list[dict[str, object]] = [
        {
            "seed": options.seed,
            "epochs": options.epochs,
            "batch": options.batch,
            "max_lr": options.lr,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "parameters": sum(p.numel() for p in model.parameters()),
        }
    ]
    print(json.dumps(log[0]), flush=True)
    for epoch in range(1, options.epochs + 1):
        started = time.perf_counter()
        model.train()
        total = torch.zeros(())
        order = torch.randperm(len(train_images), generator=generator)
        # The last incomplete batch is left out: every step then has the weight that the schedule counts on.
        for chosen in order[: steps * options.batch].split(options.batch):
            loss = nn.functional.cross_entropy(model(augment(train_images[chosen], generator)), train_labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        record = {
            "epoch": epoch,
            "train_loss": round((total / steps).item(), 4),
            "test_accuracy": accuracy(model, test_images, test_labels),
            "seconds": round(time.perf_counter() - started, 1),
        }
        log.append(record)
        print(json.dumps(record), flush=True)
    return model, log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write (a state_dict)")
    parser.add_argument("--log", type=Path, default=HERE / "train_fashion_densenet.jsonl", help="log to write")
    parser.add_argument("--data", type=Path, help="folder of the idx files; default: Debian's dataset-fashion-mnist")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.2, help="peak of the one-cycle schedule")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, log = train(options)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    torch.save(state, options.out)
    options.log.write_text("".join(json.dumps(record) + "\n" for record in log), encoding="utf-8")


if __name__ == "__main__":
    main()
