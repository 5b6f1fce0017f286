"""The goodput benchmark's script for Lightning: a ``ModelCheckpoint`` every so many steps, and ``ckpt_path="last"``."""

from __future__ import annotations

from typing import Any

from benchmarks.goodput_options import Options
from benchmarks.recovery_log import StepLog


def main() -> None:
    options = Options.parse()
    log = StepLog(str(options.record))
    log.stage("script")
    import torch  # noqa: PLC0415  it takes a while

    log.stage("torch")
    import lightning  # noqa: PLC0415  it takes a while
    from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: PLC0415

    from benchmarks.goodput_job import BATCH, CLIP, Spike, Training, finish  # noqa: PLC0415

    log.stage("imports")
    training, spike = Training.build(options), Spike(options)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = training.model

        def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
            loss: torch.Tensor = self.model(*batch)[1]
            return loss

        def configure_optimizers(self) -> Any:
            return {
                "optimizer": training.optimizer,
                "lr_scheduler": {"scheduler": training.scheduler, "interval": "step"},
            }

    class Record(lightning.Callback):
        """Before ``ModelCheckpoint``, which always comes last."""

        def on_fit_start(self, *_: Any) -> None:
            log.stage("restore")

        def on_before_optimizer_step(self, trainer: Any, _: Any, optimizer: torch.optim.Optimizer) -> None:
            spike.apply(trainer.global_step + 1, optimizer)

        def on_train_batch_end(self, trainer: Any, _: Any, outputs: Any, *__: Any) -> None:
            log.step(trainer.global_step, outputs["loss"].item())

    keep = ModelCheckpoint(
        options.checkpoints,
        filename="{step}",
        monitor="step",  # the last so many, as its documentation has it
        mode="max",
        save_top_k=options.keep,
        every_n_train_steps=options.save_every,
        save_last="link",
        enable_version_counter=False,
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=options.steps,
        gradient_clip_val=CLIP,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Record(), keep],
    )
    loader = torch.utils.data.DataLoader(training.samples, batch_size=BATCH, drop_last=True)
    trainer.fit(Module(), loader, ckpt_path="last")
    finish(training.model, options)


if __name__ == "__main__":
    main()
