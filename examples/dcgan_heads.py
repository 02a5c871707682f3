"""DCGAN's networks with one convolutional head per code, joined by name with `spec.pack`."""

import torch
from torch import Tensor, nn

from fastinfogan.latents import Categorical, LatentSpec, Uniform
from fastinfogan.losses import adversarial_losses, info_loss

SPEC = LatentSpec(62, (Categorical(10, name="digit"), Uniform(sigma="learned", name="slant")))

GENERATOR = nn.Sequential(  # latents [B, input_dim] to images [B, 1, 16, 16] in (-1, 1)
    nn.Unflatten(1, (SPEC.input_dim, 1, 1)),
    *(nn.ConvTranspose2d(SPEC.input_dim, 64, 4), nn.BatchNorm2d(64), nn.ReLU()),
    *(nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
    *(nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Tanh()),
)


class Discriminator(nn.Module):
    """A trunk, D's logit and Q's heads, each head a convolution to [B, k, 1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *(nn.Conv2d(1, 32, 4, 2, 1), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(32, 64, 4, 2, 1), nn.BatchNorm2d(64), nn.LeakyReLU(0.2)),
        )
        self.logit = nn.Conv2d(64, 1, 4)
        self.heads = nn.ModuleDict({"digit": nn.Conv2d(64, 10, 4), "slant": nn.Conv2d(64, 2, 4)})

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return D's logits [B, 1] and Q's output [B, q_dim]."""
        features = self.trunk(images)
        q = SPEC.pack({name: head(features) for name, head in self.heads.items()})
        return self.logit(features).flatten(1), q


def train(steps: int, batch: int = 64) -> float:
    """Train on random images and return the last information loss, in nats."""
    discriminator = Discriminator()
    d_adam = torch.optim.Adam(discriminator.parameters(), 2e-4, betas=(0.5, 0.999))
    g_adam = torch.optim.Adam(GENERATOR.parameters(), 1e-3, betas=(0.5, 0.999))
    (d_loss, g_loss), nats = adversarial_losses("nonsaturating"), 0.0
    for _ in range(steps):
        real, c = 2 * torch.rand(batch, 1, 16, 16) - 1, SPEC.sample(batch)
        fake = GENERATOR(c.input)
        for adam, images in ((d_adam, fake.detach()), (g_adam, fake)):
            logit, q = discriminator(images)
            info = info_loss(q, SPEC, c.categorical, c.continuous)
            loss = g_loss(logit) if adam is g_adam else d_loss(discriminator(real)[0], logit)
            adam.zero_grad()
            (loss + info.total).backward()
            adam.step()
        nats = float(info.total.item())
    return nats


if __name__ == "__main__":
    print(f"information loss {train(200):.3f} nats")
