"""A classifier of two spirals in PyTorch Lightning, with what makes resuming hard: dropout, batch norm, accumulated
gradients, a validation in the middle of an epoch, a plateau scheduler, means over an epoch.

Only the lines that say `resilient` are not what any other Lightning script would have.
"""

import os
import time
from dataclasses import dataclass

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import resilient
from resilient.integrations.lightning import Resilient


@dataclass(frozen=True)
class Settings:
    """Every field can be set as `train.<name>=<value>`."""

    epochs: int = 6
    samples: int = 700
    batch_size: int = 16
    accumulate: int = 2
    limit: float = 1.0  # the part of each epoch that is trained on
    workers: int = 0
    seed: int = 0
    validation_seconds: float = 0.0  # that each batch of a validation takes longer, to interrupt one
    output: str = "runs/lightning-output"


def spirals(samples: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(2, (samples,), generator=generator)
    turn = torch.rand(samples, generator=generator) * 9 + 1
    angle = turn + label * torch.pi
    noise = torch.randn(samples, 2, generator=generator) * 0.1
    return TensorDataset(torch.stack([turn * angle.cos(), turn * angle.sin()], 1) / 5 + noise, label)


class Classifier(L.LightningModule):
    def __init__(self, validation_seconds: float) -> None:
        super().__init__()
        self.validation_seconds = validation_seconds
        self.net = nn.Sequential(
            nn.Linear(2, 64),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Linear(64, 2),
        )

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        time.sleep(self.validation_seconds)
        self.log("val_loss", nn.functional.cross_entropy(self.net(x), y), sync_dist=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


def main() -> None:
    settings = resilient.config(Settings)
    torch.set_num_threads(1)
    L.seed_everything(settings.seed)
    data = spirals(settings.samples)
    train, validation = random_split(data, [0.85, 0.15], torch.Generator().manual_seed(2))
    loaders = (
        DataLoader(train, settings.batch_size, shuffle=True, num_workers=settings.workers),
        DataLoader(validation, 64),
    )
    trainer = L.Trainer(
        max_epochs=settings.epochs,
        accelerator="cpu",
        devices=int(os.environ.get("WORLD_SIZE", "1")),
        accumulate_grad_batches=settings.accumulate,
        limit_train_batches=settings.limit,
        val_check_interval=0.5,
        logger=False,
        enable_progress_bar=False,
        default_root_dir=settings.output,
        callbacks=[
            Resilient(),
            EarlyStopping("val_loss", patience=10),
            ModelCheckpoint(settings.output, monitor="val_loss"),
        ],
    )
    trainer.fit(Classifier(settings.validation_seconds), *loaders)
    print(f"finished with val_loss {trainer.callback_metrics['val_loss']:.4f}")


if __name__ == "__main__":
    main()
