"""The textbook InfoGAN loop: what the step is compared with. Not for use.

The paper's MNIST networks, losses and optimizers as they are usually written: fp32, eager, a
DataLoader that transforms image by image, D(real) and D(fake) apart, a loop over the codes,
`.item()` in every update, Adam as it comes.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

NOISE, CLASSES, CONTINUOUS = 62, 10, 2


class Digits(Dataset[Tensor]):
    """Images [N, 28, 28], made a float tensor [1, 28, 28] in [0, 1] one by one."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        image = Image.fromarray(self.images[index])
        return torch.from_numpy(np.array(image)).unsqueeze(0).float().div(255)


class Generator(nn.Module):
    """[B, 74] to images [B, 1, 28, 28]."""

    def __init__(self) -> None:
        super().__init__()
        self.fully_connected = nn.Sequential(
            nn.Linear(NOISE + CLASSES + CONTINUOUS, 1024),
            nn.BatchNorm1d(1024),
            nn.ReLU(),
            nn.Linear(1024, 128 * 7 * 7),
            nn.BatchNorm1d(128 * 7 * 7),
            nn.ReLU(),
        )
        self.upsampling = nn.Sequential(
            nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 1, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, latent: Tensor) -> Tensor:
        return self.upsampling(self.fully_connected(latent).view(-1, 128, 7, 7))


class Discriminator(nn.Module):
    """Images to (logit [B], class logits [B, 10], means of the continuous codes [B, 2])."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 64, 4, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(64, 128, 4, stride=2, padding=1),
            nn.BatchNorm2d(128),
            nn.LeakyReLU(0.1),
            nn.Flatten(),
            nn.Linear(128 * 7 * 7, 1024),
            nn.BatchNorm1d(1024),
            nn.LeakyReLU(0.1),
        )
        self.real = nn.Linear(1024, 1)
        self.q = nn.Sequential(nn.Linear(1024, 128), nn.BatchNorm1d(128), nn.LeakyReLU(0.1))
        self.category = nn.Linear(128, CLASSES)
        self.continuous = nn.Linear(128, CONTINUOUS)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.trunk(images)
        q = self.q(features)
        return self.real(features).squeeze(1), self.category(q), self.continuous(q)


def draw_weights(module: nn.Module) -> None:
    """Draw weights from N(0, 0.02), as the paper's code does."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


class Textbook:
    """One call, one update of D and one of G."""

    def __init__(
        self, images: NDArray[np.uint8], batch_size: int, seed: int = 0, device: str = "cpu"
    ) -> None:
        torch.manual_seed(seed)
        self.batch_size, self.device = batch_size, device
        self.loader = DataLoader(Digits(images), batch_size, shuffle=True, drop_last=True)
        self.batches = iter(self.loader)
        self.generator = Generator().apply(draw_weights).to(device)
        self.discriminator = Discriminator().apply(draw_weights).to(device)
        self.d_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999)
        )
        self.g_optimizer = torch.optim.Adam(
            self.generator.parameters(), lr=1e-3, betas=(0.5, 0.999)
        )

    def _real(self) -> Tensor:
        try:
            images = next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            images = next(self.batches)
        return images.to(self.device)

    def _latent(self) -> tuple[Tensor, Tensor, Tensor]:
        noise = torch.randn(self.batch_size, NOISE, device=self.device)
        category = torch.randint(CLASSES, (self.batch_size,), device=self.device)
        continuous = torch.rand(self.batch_size, CONTINUOUS, device=self.device) * 2 - 1
        one_hot = F.one_hot(category, CLASSES).float()
        return torch.cat((noise, one_hot, continuous), 1), category, continuous

    def _information(
        self, logits: Tensor, means: Tensor, category: Tensor, continuous: Tensor
    ) -> Tensor:
        loss = F.cross_entropy(logits, category)
        for i in range(CONTINUOUS):
            mean, value = means[:, i], continuous[:, i]
            loss = loss + F.gaussian_nll_loss(mean, value, torch.ones_like(mean), full=True)
        return loss

    def __call__(self) -> tuple[float, float]:
        real = self._real()
        ones = torch.ones(self.batch_size, device=self.device)
        zeros = torch.zeros_like(ones)

        self.d_optimizer.zero_grad()
        latent, category, continuous = self._latent()
        fake = self.generator(latent)
        on_real, _, _ = self.discriminator(real)
        on_fake, logits, means = self.discriminator(fake.detach())
        d_loss = F.binary_cross_entropy_with_logits(on_real, ones)
        d_loss = d_loss + F.binary_cross_entropy_with_logits(on_fake, zeros)
        d_loss = d_loss + self._information(logits, means, category, continuous)
        d_loss.backward()
        self.d_optimizer.step()

        self.g_optimizer.zero_grad()
        latent, category, continuous = self._latent()
        on_fake, logits, means = self.discriminator(self.generator(latent))
        g_loss = F.binary_cross_entropy_with_logits(on_fake, ones)
        g_loss = g_loss + self._information(logits, means, category, continuous)
        g_loss.backward()
        self.g_optimizer.step()
        return d_loss.item(), g_loss.item()
