"""The goodput benchmark's script for Hugging Face's Trainer: ``save_steps``, and ``resume_from_checkpoint``."""

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
    from transformers import Trainer, TrainerCallback, TrainingArguments  # noqa: PLC0415  it takes a while
    from transformers.trainer_utils import get_last_checkpoint  # noqa: PLC0415

    from benchmarks.goodput_job import BATCH, CLIP, Spike, Training, finish  # noqa: PLC0415

    log.stage("imports")
    training, spike = Training.build(options), Spike(options)

    class Named(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        """Samples as the Trainer likes them."""

        def __len__(self) -> int:
            return len(training.samples)

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            x, y = training.samples[index]
            return {"x": x, "labels": y}

    class Losing(torch.nn.Module):
        """The model with the loss in front, as the Trainer wants it."""

        def __init__(self) -> None:
            super().__init__()
            self.model = training.model

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits, loss = self.model(x, labels)
            return loss, logits

    class Recorded(Trainer):
        last: torch.Tensor

        def training_step(self, *given: Any, **named: Any) -> torch.Tensor:
            self.last = super().training_step(*given, **named)
            return self.last

    class Record(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            log.stage("restore")

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            spike.apply(state.global_step + 1, kwargs["optimizer"])

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            log.step(state.global_step, trainer.last.item())

    arguments = TrainingArguments(
        output_dir=str(options.checkpoints),
        max_steps=options.steps,
        per_device_train_batch_size=BATCH,
        train_sampling_strategy="sequential",  # they are in a drawn order already, the same for all contestants
        dataloader_drop_last=True,
        max_grad_norm=CLIP,
        save_steps=options.save_every,
        save_total_limit=options.keep,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=options.seed,
    )
    trainer = Recorded(Losing(), arguments, train_dataset=Named(), optimizers=(training.optimizer, training.scheduler))
    trainer.add_callback(Record())
    options.checkpoints.mkdir(exist_ok=True)
    newest = get_last_checkpoint(str(options.checkpoints))  # type: ignore[no-untyped-call]  # of transformers
    trainer.train(resume_from_checkpoint=newest)
    finish(training.model, options)


if __name__ == "__main__":
    main()
