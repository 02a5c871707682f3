"""A circular code: Q reads the direction of an arrow, with no jump in the loss at ±π."""

import torch
from torch import Tensor, nn

from fastinfogan.latents import Angle, LatentSpec
from fastinfogan.losses import info_loss, information

SPEC = LatentSpec(noise=2, codes=(Angle(concentration="learned", name="direction"),))
SIDE = 12


def draw(latent: Tensor) -> Tensor:
    """Return images [B, SIDE²] of an arrow from the middle; stands for a generator."""
    noise, cosine, sine = latent[:, :2], latent[:, 2:3], latent[:, 3:4]
    axis = torch.linspace(-1, 1, SIDE)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    along = x.flatten() * cosine + y.flatten() * sine
    across = y.flatten() * cosine - x.flatten() * sine
    bright = torch.exp(-((across / 0.2) ** 2)) * torch.sigmoid(8 * along)
    return bright + 0.05 * noise[:, :1]


def train(steps: int, batch: int = 128) -> tuple[float, float]:
    """Train Q; return the information in nats, and the mean error of the direction in radians."""
    q_network = nn.Sequential(nn.Linear(SIDE**2, 64), nn.LeakyReLU(0.1), nn.Linear(64, SPEC.q_dim))
    adam = torch.optim.Adam(q_network.parameters(), 3e-3)
    for _ in range(steps):
        c = SPEC.sample(batch)
        info = info_loss(q_network(draw(c.input)), SPEC, c.categorical, c.continuous)
        adam.zero_grad()
        info.total.backward()
        adam.step()
    c = SPEC.sample(2000, seed=0)
    with torch.no_grad():
        q = q_network(draw(c.input))
        info = info_loss(q, SPEC, c.categorical, c.continuous)
    turn = torch.atan2(q[:, 1], q[:, 0]) - c.continuous[:, 0]
    error = torch.atan2(turn.sin(), turn.cos()).abs().mean()
    return float(information(info.per_code, SPEC)), float(error)


if __name__ == "__main__":
    nats, radians = train(500)
    print(f"information {nats:.2f} nats, mean error {radians:.3f} radians")
