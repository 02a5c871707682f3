"""InfoGAN as a LightningModule (`pip install lightning`): manual optimization, one InfoLoss."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from fastinfogan.latents import Categorical, LatentSpec, Uniform
from fastinfogan.losses import InfoLoss, adversarial_losses

SPEC = LatentSpec(noise=8, codes=(Categorical(3, name="cluster"), Uniform(name="place")))


class InfoGAN(LightningModule):
    """Two small networks; D's output is its logit and Q's columns."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.seed = seed
        self.generator = nn.Sequential(nn.Linear(SPEC.input_dim, 64), nn.ReLU(), nn.Linear(64, 2))
        self.d = nn.Sequential(nn.Linear(2, 64), nn.LeakyReLU(), nn.Linear(64, 1 + SPEC.q_dim))
        self.info_loss = InfoLoss(SPEC)

    def training_step(self, batch: list[Tensor], _: int) -> None:
        """Move D, then G, on the same generated rows."""
        (real,) = batch
        rows = len(real)
        first = self.global_rank * rows  # each rank has its own rows, though all have one seed
        c = SPEC.sample(
            rows, device=self.device, seed=self.seed, step=self.global_step, first_row=first
        )
        fake = self.generator(c.input)
        d_loss, g_loss = adversarial_losses("nonsaturating")
        optimizers: Any = self.optimizers()
        for optimizer, images in zip(optimizers, (fake.detach(), fake), strict=True):
            out = self.d(images)
            info = self.info_loss(out[:, 1:], c)
            of_d = images is not fake
            loss = d_loss(self.d(real)[:, 0], out[:, 0]) if of_d else g_loss(out[:, 0])
            optimizer.zero_grad()
            self.manual_backward(loss + info.total)
            optimizer.step()
            self.log_dict(info.by_name(SPEC), prog_bar=True)  # nats per code

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return D's and G's Adam."""
        return [torch.optim.Adam(net.parameters(), 1e-3) for net in (self.d, self.generator)]


if __name__ == "__main__":
    points = torch.utils.data.TensorDataset(torch.randn(1280, 2))
    loader = torch.utils.data.DataLoader(points, batch_size=64)
    trainer = Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(InfoGAN(), loader)
