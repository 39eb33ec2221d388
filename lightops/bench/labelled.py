"""The demonstration: what stock and swapped network say to the same pictures, and how often they are right."""

import torch
from torch import Tensor

from lightops.bench.contestants import swap
from lightops.bench.report import Answer, Labelled
from lightops.bench.subjects import FASHION, Subject
from lightops.bench.verify import limit_for

_CHUNK = 16
_SHOWN = 26


def evaluate(subject: Subject, winograd: int = 2) -> tuple[Labelled, str]:
    """Runs the stock network in both layouts, the swapped one and the float64 one on every picture of the subject.

    Returns the comparison and the swap report as text. It is `ok` when the swapped network errs no more than the rule
    of `verify` allows and names stock's class on every labelled picture, but for ties closer than that error.
    """
    swapped = subject.copy().to(memory_format=torch.channels_last)
    nhwc = subject.copy().to(memory_format=torch.channels_last)
    answer = []
    report = swap(swapped, winograd)
    for part in subject.batch(len(subject.photos)).split(_CHUNK):
        wide = part.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            answer.append((subject.model(part), nhwc(wide), swapped(wide)))
    stock, stock_nhwc, ours = (torch.cat(outputs).double() for outputs in zip(*answer, strict=True))
    exact = subject.exact(len(subject.photos))
    labels = torch.tensor([-1 if photo.label is None else photo.label for photo in subject.photos])
    errors = [(found - exact).abs().max().item() for found in (stock, stock_nhwc, ours)]
    same = stock.argmax(1) == ours.argmax(1)
    known = labels >= 0
    limit = limit_for("lightops", exact, torch.float32, errors[:2])
    entry = Labelled(
        network=subject.name,
        weights=subject.weights.description,
        data="test pictures" if subject.name == FASHION else "photographs",
        pictures=len(subject.photos),
        stock=_correct(stock, labels, known, subject),
        swapped=_correct(ours, labels, known, subject),
        agreement=same.double().mean().item(),
        error_stock=max(errors[:2]),
        error_swapped=errors[2],
        ok=bool(errors[2] <= limit and (same | _tied(exact, 2 * limit))[known].all()),
        answers=_answers(subject, labels, stock, ours),
    )
    return entry, str(report)


def _tied(exact: Tensor, margin: float) -> Tensor:
    """Pictures whose two best classes lie so close in float64 that an error within the limit may exchange them."""
    best = exact.topk(2, dim=1).values
    return best[:, 0] - best[:, 1] <= margin


def _correct(logits: Tensor, labels: Tensor, known: Tensor, subject: Subject) -> float | None:
    if not (subject.weights.classifies and known.any()):
        return None
    return (logits.argmax(1) == labels)[known].double().mean().item()


def _answers(subject: Subject, labels: Tensor, stock: Tensor, ours: Tensor) -> list[Answer]:
    if not subject.weights.classifies:
        return []
    lines = []
    columns = (subject.photos, labels.tolist(), stock.softmax(1), ours.softmax(1))
    for photo, label, before, after in list(zip(*columns, strict=True))[:_SHOWN]:
        (p_before, class_before), (p_after, class_after) = (p.max(0) for p in (before, after))
        said = [_class_name(subject, index.item()) for index in (class_before, class_after)]
        known = _class_name(subject, label) if label >= 0 else None
        lines.append(Answer(photo.name, known, said[0], p_before.item(), said[1], p_after.item(), said[0] == said[1]))
    return lines


def _class_name(subject: Subject, index: int) -> str:
    return subject.classes[index] if subject.classes else f"class {index}"
