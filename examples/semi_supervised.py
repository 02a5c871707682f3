"""Semi-supervised InfoGAN: some real images have labels, which pin the categories down.

ss-InfoGAN (Spurr et al. 2017) adds a second information term: on real images, of the labels that
there are, Q's negative log-likelihood. A missing label is -1, and `ignore_index` leaves it out.
"""

import torch
from torch import Tensor, nn

from fastinfogan.latents import Categorical, LatentSpec, Uniform
from fastinfogan.losses import adversarial_losses, info_loss

SPEC = LatentSpec(noise=8, codes=(Categorical(3, name="cluster"), Uniform(name="place")))
CENTRES = torch.tensor([[1.0, 0.0], [-0.5, 0.87], [-0.5, -0.87]])


def real_batch(batch: int, labelled: float) -> tuple[Tensor, Tensor]:
    """Return points [B, 2] of three clusters and their labels [B, 1], most of them missing."""
    label = torch.randint(3, (batch,))
    points = CENTRES[label] + 0.1 * torch.randn(batch, 2)
    return points, torch.where(torch.rand(batch) < labelled, label, -1).unsqueeze(1)


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    """Return a small network."""
    return nn.Sequential(nn.Linear(inputs, 64), nn.LeakyReLU(0.1), nn.Linear(64, outputs))


def train(steps: int, batch: int = 128, labelled: float = 0.05) -> float:
    """Train and return the share of real points whose category is their label."""
    generator, discriminator = mlp(SPEC.input_dim, 2), mlp(2, 1 + SPEC.q_dim)
    d_adam = torch.optim.Adam(discriminator.parameters(), 1e-3, betas=(0.5, 0.999))
    g_adam = torch.optim.Adam(generator.parameters(), 1e-3, betas=(0.5, 0.999))
    d_loss, g_loss = adversarial_losses("nonsaturating")
    place = torch.full((batch, 1), torch.nan)  # a real point has no place: missing too
    for _ in range(steps):
        (real, label), c = real_batch(batch, labelled), SPEC.sample(batch)
        fake = generator(c.input)
        of_real, of_fake = discriminator(real), discriminator(fake.detach())
        supervised = info_loss(of_real[:, 1:], SPEC, label, place, ignore_index=-1)
        info = info_loss(of_fake[:, 1:], SPEC, c.categorical, c.continuous)
        d_adam.zero_grad()
        adversarial = d_loss(of_real[:, 0], of_fake[:, 0])
        (adversarial + info.total + supervised.total).backward()
        d_adam.step()
        of_fake = discriminator(fake)
        info = info_loss(of_fake[:, 1:], SPEC, c.categorical, c.continuous)
        g_adam.zero_grad()
        (g_loss(of_fake[:, 0]) + info.total).backward()
        g_adam.step()
    points, label = real_batch(1000, labelled=1.0)
    guess = discriminator(points)[:, 1:4].argmax(1)
    return float((guess == label.squeeze(1)).float().mean())


if __name__ == "__main__":
    print(f"{train(500):.1%} of the real points are in the category of their label")
