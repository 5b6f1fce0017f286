"""A tiny GPT-2 that learns to count, by Hugging Face's Trainer, with what makes resuming hard: dropout, accumulated
gradients, a logged loss that is a mean over several steps, evaluations.

Only the lines that say `resilient` are not what any other script with a Trainer would have.
"""

import time
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

import resilient
from resilient.integrations.transformers import Resilient


@dataclass(frozen=True)
class Settings:
    """Every field can be set as `train.<name>=<value>`."""

    epochs: int = 3
    samples: int = 312
    batch_size: int = 8
    accumulate: int = 2
    workers: int = 0
    seed: int = 0
    evaluation_seconds: float = 0.0  # that each sample of an evaluation takes longer, to interrupt one
    output: str = "runs/transformers-output"


class Counting(Dataset):
    """Numbers that follow each other, from somewhere on, in steps of some size."""

    def __init__(self, samples: int, first: int, seconds: float = 0.0) -> None:
        self.samples, self.first, self.seconds = samples, first, seconds

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        time.sleep(self.seconds)
        numbers = (self.first + index + torch.arange(16) * (1 + index % 3)) % 64
        return {"input_ids": numbers, "labels": numbers}


def main() -> None:
    settings = resilient.config(Settings)
    torch.set_num_threads(1)
    set_seed(settings.seed)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2))
    arguments = TrainingArguments(
        output_dir=settings.output,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulate,
        dataloader_num_workers=settings.workers,
        learning_rate=3e-3,
        warmup_steps=10,
        logging_steps=7,
        eval_strategy="steps",
        eval_steps=15,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=settings.seed,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=Counting(settings.samples, 0),
        eval_dataset=Counting(32, 1000, settings.evaluation_seconds),
    )
    trainer.add_callback(Resilient(trainer))
    print(f"finished: {trainer.train()}")


if __name__ == "__main__":
    main()
