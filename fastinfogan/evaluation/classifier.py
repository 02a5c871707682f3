"""The fixed evaluation classifier: a small LeNet on MNIST whose features the Fréchet distance uses.

`python -m fastinfogan.evaluation.classifier` trains it and writes assets/classifier.safetensors,
which is committed, so that every score is measured with the same weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .. import data, philox
from ..cli import run_command

WEIGHTS = Path(__file__).parent.parent / "assets" / "classifier.safetensors"
FEATURES = 128


class Classifier(nn.Module):
    """Two convolutions, a hidden layer of 128 features, ten classes. For 28×28 gray in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, padding=2)
        self.conv2 = nn.Conv2d(16, 32, 5)
        self.fc = nn.Linear(32 * 5 * 5, FEATURES)
        self.out = nn.Linear(FEATURES, 10)

    def features(self, images: Tensor) -> Tensor:
        """Map images [B, 1, 28, 28] to features [B, 128]."""
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return F.relu(self.fc(x.flatten(1)))

    def forward(self, images: Tensor) -> Tensor:
        """Map images to logits [B, 10]."""
        return self.out(self.features(images))


def applies_to(image_size: int, channels: int) -> bool:
    """Return True if the classifier takes such images."""
    return image_size == 28 and channels == 1


def load() -> Classifier:
    """Return the committed classifier, in eval mode."""
    classifier = Classifier()
    classifier.load_state_dict(load_file(WEIGHTS))
    return classifier.eval()


def committed_accuracy() -> float:
    """Return the accuracy on the 10,000 MNIST test images, as written next to the weights."""
    with safe_open(WEIGHTS, "pt") as file:
        return float(file.metadata()["test_accuracy"])


@torch.no_grad()
def accuracy(classifier: Classifier, images: Tensor, labels: Tensor) -> float:
    """Return the share of images [N, 1, 28, 28] whose class it gets right."""
    guesses = torch.cat([classifier(part).argmax(1) for part in images.split(1000)])
    return float((guesses == labels).double().mean())


@dataclass(frozen=True)
class ClassifierConfig:
    """Train the evaluation classifier on MNIST and write its weights."""

    out: Path = WEIGHTS
    """Where the weights go."""
    epochs: int = 8
    """Passes over the 60,000 training images, the learning rate falling to zero in a cosine."""
    batch_size: int = 128
    """Images per update."""
    lr: float = 2e-3
    """AdamW's first learning rate."""
    seed: int = 0
    """Fixes weights, order and shifts."""


def train(config: ClassifierConfig) -> None:
    """Run the command."""
    torch.manual_seed(config.seed)
    splits = {
        split: (
            data.to_range(torch.from_numpy(read.images), (0.0, 1.0)).contiguous(),
            torch.from_numpy(read.labels),
        )
        for split, read in data.load("mnist", image_size=28, channels=1).items()
    }
    images, labels = splits["train"]
    classifier = Classifier()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=config.lr, weight_decay=1e-2)
    updates = config.epochs * (len(images) // config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for epoch in range(config.epochs):
        order = philox.permutation(len(images), seed=config.seed, epoch=epoch)
        for batch in order.split(config.batch_size):
            if len(batch) < config.batch_size:
                break
            down, right = torch.randint(-2, 3, (2,)).tolist()
            shifted = images[batch].roll((down, right), (2, 3))
            loss = F.cross_entropy(classifier(shifted), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: test accuracy {accuracy(classifier, *splits['test']):.4f}")
    final = accuracy(classifier.eval(), *splits["test"])
    save_file(classifier.state_dict(), config.out, {"test_accuracy": f"{final:.4f}"})
    print(f"wrote {config.out}: test accuracy {final:.4f}, {config.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    raise SystemExit(
        run_command(train, ClassifierConfig, "python -m fastinfogan.evaluation.classifier", None)
    )
