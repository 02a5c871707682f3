"""WGAN-GP with the information loss, whose own slope is penalised: it is differentiated twice.

`backend="reference"` has the second derivative on every device; the Triton kernel has the first.
"""

import torch
from torch import Tensor, nn

from fastinfogan.latents import Categorical, LatentSpec, Uniform
from fastinfogan.losses import adversarial_losses, info_loss

SPEC = LatentSpec(noise=8, codes=(Categorical(4), Uniform()))


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    """Return a network without BatchNorm: the penalty is each row's own."""
    return nn.Sequential(nn.Linear(inputs, 64), nn.SiLU(), nn.Linear(64, outputs))


def penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Return E(‖∇ₓD(x)‖ − 1)² between real and generated rows (Gulrajani et al. 2017, eq. 3)."""
    x = torch.lerp(real, fake, torch.rand(len(real), 1)).requires_grad_()
    (slope,) = torch.autograd.grad(critic(x)[:, 0].sum(), x, create_graph=True)
    loss: Tensor = (slope.norm(dim=1) - 1).square().mean()
    return loss


def train(steps: int, batch: int = 64) -> float:
    """Train on points around a circle and return the last information loss, in nats."""
    generator, critic = mlp(SPEC.input_dim, 2), mlp(2, 1 + SPEC.q_dim)
    c_adam = torch.optim.Adam(critic.parameters(), 1e-3, betas=(0.0, 0.9))
    g_adam = torch.optim.Adam(generator.parameters(), 1e-3, betas=(0.0, 0.9))
    d_loss, g_loss = adversarial_losses("wgan")
    nats = 0.0
    for _ in range(steps):
        turn = 2 * torch.pi * torch.rand(batch)
        real, c = torch.stack((turn.cos(), turn.sin()), 1), SPEC.sample(batch)
        fake = generator(c.input).detach().requires_grad_()
        out = critic(fake)
        info = info_loss(out[:, 1:], SPEC, c.categorical, c.continuous, backend="reference")
        (slope,) = torch.autograd.grad(info.total, fake, create_graph=True)
        smooth = batch * slope.square().sum(1).mean()
        loss = d_loss(critic(real)[:, 0], out[:, 0]) + 10 * penalty(critic, real, fake.detach())
        c_adam.zero_grad()
        (loss + info.total + 0.01 * smooth).backward()
        c_adam.step()
        out = critic(generator(c.input))
        info = info_loss(out[:, 1:], SPEC, c.categorical, c.continuous)
        g_adam.zero_grad()
        (g_loss(out[:, 0]) + info.total).backward()
        g_adam.step()
        nats = float(info.total.item())
    return nats


if __name__ == "__main__":
    print(f"information loss {train(500):.3f} nats")
