"""A release of a framework that lacks what an adapter reaches for is told so at the start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resilient.errors import UsageError
from resilient.integrations.expected import Known


def test_what_is_missing_is_named_with_the_release_and_the_next_step() -> None:
    known = Known("torch", "==1.0.*")
    known.require(nn.Linear(1, 1), "weight.grad", "forward")
    known.require_arguments(nn.Linear(1, 1).forward, ["input"])
    with pytest.raises(UsageError) as missing:
        known.require(nn.Linear(1, 1), "weight._hidden.deeper")
    assert str(missing.value).startswith(f"torch {torch.__version__} has no Linear.weight._hidden.deeper, which")
    assert "tried with torch==1.0.*: pip install 'torch==1.0.*'" in str(missing.value)
    with pytest.raises(UsageError, match=r"no the argument other of Linear.forward, which"):
        known.require_arguments(nn.Linear(1, 1).forward, ["input", "other"])
    with pytest.raises(UsageError, match=r"nothing-like-it \(of an unknown release\) has no object.x"):
        Known("nothing-like-it", "==1").require(object(), "x")


@pytest.mark.parametrize("name", ["on_iteration_done", "load_state_dict"])
def test_lightning(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, name: str) -> None:
    lightning = pytest.importorskip("lightning")
    from lightning.pytorch.loops.loop import _Loop

    from resilient.integrations.lightning import Resilient

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def training_step(self, batch: Any, _: int) -> Any:
            raise AssertionError("it has begun to train")

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([nn.Parameter(torch.ones(1))])

    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(accelerator="cpu", default_root_dir=tmp_path, callbacks=[Resilient()], **options)
    monkeypatch.delattr(_Loop, name)
    with pytest.raises(UsageError, match=rf"lightning 2\S+ has no \S+\.{name}, which the adapter needs") as told:
        trainer.fit(Module(), DataLoader(TensorDataset(torch.ones(4, 1))))
    assert "pip install 'lightning==2.6.*'" in str(told.value)


def test_transformers(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    from resilient.integrations.transformers import Resilient

    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1))
    trainer = transformers.Trainer(model, transformers.TrainingArguments(str(tmp_path), report_to=[], use_cpu=True))
    Resilient(trainer)
    monkeypatch.setattr(transformers.Trainer, "_run_epoch", lambda self, *, epoch: None)
    with pytest.raises(UsageError, match=r"transformers 5\S+ has no the argument epochs_trained of .*<lambda>"):
        Resilient(trainer)
    monkeypatch.delattr(transformers.Trainer, "_evaluate")
    with pytest.raises(UsageError, match=r"has no Trainer\._evaluate, .*\n?.*pip install 'transformers==5"):
        Resilient(trainer)


def test_accelerate() -> None:
    accelerate = pytest.importorskip("accelerate")
    from resilient.integrations.accelerate import attach

    accelerator = accelerate.Accelerator(cpu=True)
    del accelerator._custom_objects
    with pytest.raises(UsageError, match=r"accelerate 1\S+ has no Accelerator\._custom_objects"):
        attach(accelerator, accelerator.prepare(DataLoader(TensorDataset(torch.ones(4, 1)))))


def test_deepspeed() -> None:
    from resilient.integrations.deepspeed import states

    inner = torch.optim.SGD([nn.Parameter(torch.ones(1))])
    counters = dict.fromkeys(("micro_steps", "global_steps", "global_samples", "skipped_steps"), 0)
    engine = SimpleNamespace(zero_optimization_stage=lambda: 2, lr_scheduler=None, module=nn.Linear(1, 1), **counters)
    engine.optimizer = SimpleNamespace(optimizer=inner)
    with pytest.raises(UsageError, match=r"has no SimpleNamespace.single_partition_of_fp32_groups"):
        states(engine)
    engine.optimizer = SimpleNamespace(optimizer=inner, single_partition_of_fp32_groups=[torch.ones(1)])
    with pytest.raises(UsageError, match=r"has no SimpleNamespace._link_all_hp_params"):
        states(engine)
    del engine.global_samples
    with pytest.raises(UsageError, match=r"has no SimpleNamespace.global_samples"):
        states(engine)
