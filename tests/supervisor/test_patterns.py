"""Numbers in what scripts print."""

from __future__ import annotations

import math
import time

import pytest

from resilient.errors import ConfigurationError
from resilient.supervisor.patterns import LOSS, LinePatterns, check_pattern


@pytest.mark.parametrize(
    ("line", "loss"),
    [
        ("Train Epoch: 1 [0/60000 (0%)]\tLoss: 2.300039", 2.300039),  # pytorch/examples mnist
        ("Epoch: [0][  0/5005]\tTime 1.2 (1.2)\tLoss 7.0e+00 (7.0e+00)\tAcc@1", 7.0),  # imagenet
        ("| epoch   1 |   200/ 2983 batches | lr 20.00 | ms/batch 10.1 | loss  7.60 | ppl  2000", 7.6),
        ("iter 0: loss 4.2134, time 1.2ms, mfu -100%", 4.2134),  # nanoGPT
        ("step 0: train loss 4.2, val loss 4.3", 4.2),
        ("iter_dt 5.2ms; iter 100: train loss 0.55123", 0.55123),  # minGPT
        ("{'loss': 0.69, 'grad_norm': 1.1, 'learning_rate': 5e-05, 'epoch': 0.1}", 0.69),  # transformers
        ("{'loss': '4.326', 'grad_norm': '0.868'}", 4.326),  # transformers 5
        ("Epoch 0:  50%|##| 10/20 [00:00<00:00, 50it/s, v_num=0, train_loss=0.512, val_loss=0.7]", 0.512),  # lightning
        ("Train: 0 [   0/1251 (  0%)]  Loss: 6.95 (6.95)  Time: 0.1", 6.95),  # timm
        ("[1, 2000] loss: 2.177", 2.177),
        ("loss: tensor(2.3026, grad_fn=<NllLossBackward0>)", 2.3026),
        ("loss=1e-3", 1e-3),
        ("loss: -inf", -math.inf),
        ("Test set: Average loss: 0.0285, Accuracy: 99", None),
        ("Test: [ 0/196] Time 1 Loss 3.0", None),
        ("{'eval_loss': 0.3, 'eval_runtime': 1}", None),
        ("{'train_runtime': '2.013', 'train_loss': '4.323', 'epoch': '2'}", None),
        ("| end of epoch   1 | time: 5s | valid loss  5.0 | valid ppl", None),
        ("loss function is 3", None),
        ("floss: 3", None),
        ("loss: 3abc", None),
        ("", None),
    ],
)
def test_the_training_loss_of_the_common_scripts(line: str, loss: float | None) -> None:
    assert LinePatterns({"loss": LOSS}).values(line) == ({} if loss is None else {"loss": loss})


def test_nan_is_a_loss() -> None:
    assert math.isnan(LinePatterns({"loss": LOSS}).values("loss: nan")["loss"])


@pytest.mark.parametrize("unlucky", ["loss:", "loss ", "val loss ", "l", " ", "1"])
def test_no_line_takes_long(unlucky: str) -> None:
    patterns, line = LinePatterns({"loss": LOSS}), (unlucky * 1000)[:1000]
    began = time.process_time()
    patterns.values(line)
    assert time.process_time() - began < 0.5


def test_steps() -> None:
    patterns = LinePatterns({}, r"step ([\d,]+)")
    assert patterns.step("at step 1,200 now") == 1200
    assert patterns.step("no number") is None
    assert LinePatterns({}).step("step 3") is None


@pytest.mark.parametrize(
    ("pattern", "said"),
    [("(", "is no regular expression"), ("loss", "has no group"), ("(a+)+", "repeats"), (r"((?:\w+\s*)*)x", "repeats")],
)
def test_bad_patterns_are_refused(pattern: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        check_pattern("worker.metrics.x", pattern)


@pytest.mark.parametrize("pattern", [LOSS, r"a+ (\d+) b*", r"(?:x|y)?loss=(\S+)", r"(a{2,5})+"])
def test_good_ones_are_not(pattern: str) -> None:
    check_pattern("worker.metrics.x", pattern)
