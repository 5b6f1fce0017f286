"""Models for Hugging Face: what is written there, and that ``transformers`` loads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import resilient
from resilient.cli import main
from tests.convert.states import bits

Weights = dict[str, torch.Tensor]


def _weights() -> Weights:
    generator = torch.Generator().manual_seed(0)
    return {f"layers.{number}.weight": torch.randn(8, 8, generator=generator) for number in range(5)}


def _checkpoint(path: Path, weights: Weights, wrapper: str = "") -> None:
    optimizer = {"state": {0: {"step": torch.tensor(257.0)}}, "param_groups": [{"params": [0]}]}
    torch.save({"model": {wrapper + name: weight for name, weight in weights.items()}, "optimizer": optimizer}, path)


def _equal(wanted: Weights, found: Weights) -> bool:
    return wanted.keys() == found.keys() and all(bits(wanted[name]) == bits(found[name]) for name in wanted)


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.module."])
def test_a_model_in_several_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], wrapper: str) -> None:
    weights = _weights()
    _checkpoint(tmp_path / "a.pt", weights, wrapper)
    (tmp_path / "config.json").write_text('{"model_type": "own"}')
    assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "hf"), "--to", "hf", "--shard-size", "512B"]) == 0
    said = capsys.readouterr().out
    assert "the model is model; everything else is left out" in said
    assert (f"the names lose the {wrapper} that" in said) is bool(wrapper)
    assert json.loads((tmp_path / "hf" / "config.json").read_text()) == {"model_type": "own"}
    files = sorted((tmp_path / "hf").glob("*.safetensors"))
    assert [file.name for file in files] == [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    found: Weights = {}
    for file in files:
        inside = safetensors.torch.load_file(file)
        assert all(index["weight_map"][name] == file.name for name in inside)
        assert sum(tensor.nbytes for tensor in inside.values()) <= 512
        found |= inside
    assert _equal(weights, found)
    assert index["metadata"]["total_size"] == 5 * 256
    assert _equal(weights, resilient.load(tmp_path / "hf"))


def test_one_file_and_nothing_beside_it_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _checkpoint(tmp_path / "a.pt", _weights())
    assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "hf"), "--to", "hf", "--dtype", "bf16"]) == 0
    assert "there is no config.json, without which transformers does not load" in capsys.readouterr().out
    assert [file.name for file in (tmp_path / "hf").iterdir()] == ["model.safetensors"]
    found = safetensors.torch.load_file(tmp_path / "hf" / "model.safetensors")
    assert _equal({name: weight.bfloat16() for name, weight in _weights().items()}, found)


def test_which_is_the_model_has_to_be_clear(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = _weights()
    torch.save({"model": weights, "net": weights, "epoch": 3}, tmp_path / "a.pt")
    arguments = ["convert", str(tmp_path / "a.pt"), str(tmp_path / "hf"), "--to", "hf"]
    assert main(arguments) == 80
    assert "there are model, net, epoch" in capsys.readouterr().err
    assert main([*arguments, "--only", "net", "--hf-config", str(tmp_path)]) == 2
    assert main([*arguments, "--only", "net"]) == 0
    assert _equal(weights, resilient.load(tmp_path / "hf"))


def test_older_files_with_an_index_are_read(tmp_path: Path) -> None:
    weights = _weights()
    names = list(weights)
    for number, part in enumerate((names[:2], names[2:]), 1):
        torch.save({name: weights[name] for name in part}, tmp_path / f"pytorch_model-{number}.bin")
    placed = {name: f"pytorch_model-{1 if name in names[:2] else 2}.bin" for name in names}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    assert _equal(weights, resilient.load(tmp_path))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", ["5GB", "20KB"])
def test_transformers_loads_it(tmp_path: Path, size: str, tied: bool) -> None:
    transformers: Any = pytest.importorskip("transformers")
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, tie_word_embeddings=tied))
    model.config.save_pretrained(tmp_path / "config")
    optimizer = torch.optim.AdamW(model.parameters())
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    arguments = ["--to", "hf", "--hf-config", str(tmp_path / "config"), "--shard-size", size]
    assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "hf"), *arguments]) == 0
    assert (tmp_path / "hf" / "model.safetensors.index.json").exists() == (size == "20KB")
    found, about = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path / "hf", output_loading_info=True, dtype=torch.float32
    )
    assert not any(about[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert _equal(dict(model.state_dict()), dict(found.state_dict()))
    tokens = torch.arange(16)[None]
    assert torch.equal(model.eval()(tokens).logits, found.eval()(tokens).logits)
    found.save_pretrained(tmp_path / "again", max_shard_size=size)
    assert main(["convert", str(tmp_path / "again"), str(tmp_path / "again.pt")]) == 0
    again = torch.load(tmp_path / "again.pt", weights_only=True)
    assert all(bits(tensor) == bits(again[name]) for name, tensor in found.state_dict().items() if name in again)
    assert len(again) == len(found.state_dict()) - tied
