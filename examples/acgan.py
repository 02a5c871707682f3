"""AC-GAN (Odena et al. 2017): every real image has a class, and G draws the class that it is given.

The auxiliary classifier is a code whose values are known on real images too: D's Q learns the
class of real and generated images, and G is rewarded where Q reads the class that was asked for.
"""

import torch
from torch import Tensor, nn

from fastinfogan.latents import Categorical, LatentSpec
from fastinfogan.losses import adversarial_losses, info_loss

SPEC = LatentSpec(noise=16, codes=(Categorical(4, name="class"),))


def real_batch(batch: int) -> tuple[Tensor, Tensor]:
    """Return images [B, 1, 8, 8] in (0, 1), bright in one quarter, and its number [B, 1]."""
    label = torch.randint(4, (batch, 1))
    cell = nn.functional.one_hot(label, 4).view(batch, 1, 2, 2).float()
    quarter = cell.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return 0.1 + 0.7 * quarter + 0.2 * torch.rand(batch, 1, 8, 8), label


def quarter_of(images: Tensor) -> Tensor:
    """Return the number of the brightest quarter, [B]."""
    return nn.functional.avg_pool2d(images, 4).flatten(1).argmax(1)


def train(steps: int, batch: int = 64) -> float:
    """Train and return the share of generated images that are of the class asked for."""
    generator = nn.Sequential(
        *(nn.Linear(SPEC.input_dim, 128), nn.ReLU(), nn.Linear(128, 64), nn.Sigmoid()),
        nn.Unflatten(1, (1, 8, 8)),
    )
    discriminator = nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1 + SPEC.q_dim)),
    )
    d_adam = torch.optim.Adam(discriminator.parameters(), 1e-3, betas=(0.5, 0.999))
    g_adam = torch.optim.Adam(generator.parameters(), 1e-3, betas=(0.5, 0.999))
    d_loss, g_loss = adversarial_losses("nonsaturating")
    for _ in range(steps):
        (real, label), c = real_batch(batch), SPEC.sample(batch)
        fake = generator(c.input)
        of_real, of_fake = discriminator(real), discriminator(fake.detach())
        classes = info_loss(of_real[:, 1:], SPEC, label).total
        classes = classes + info_loss(of_fake[:, 1:], SPEC, c.categorical).total
        d_adam.zero_grad()
        (d_loss(of_real[:, 0], of_fake[:, 0]) + classes).backward()
        d_adam.step()
        of_fake = discriminator(fake)
        g_adam.zero_grad()
        (g_loss(of_fake[:, 0]) + info_loss(of_fake[:, 1:], SPEC, c.categorical).total).backward()
        g_adam.step()
    c = SPEC.sample(1000)
    return float((quarter_of(generator(c.input)) == c.categorical[:, 0]).float().mean())


if __name__ == "__main__":
    print(f"{train(300):.1%} of the generated images are of the class asked for")
