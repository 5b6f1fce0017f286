"""Which files make up a DeepSpeed checkpoint, and whether all of them are there.

A checkpoint is a directory named by a tag, such as ``global_step120``. Beside it, in the directory that was given to
``save_checkpoint``, the file ``latest`` holds the newest tag, and ``latest_universal`` that of a universal checkpoint.
In it each rank has a file with its part of the optimizer, and rank 0 one with everything else; with ZeRO-3 each has
one of those too. https://deepspeed.readthedocs.io/en/latest/model-checkpointing.html
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resilient.errors import CheckpointUnreadable

LATEST, LATEST_UNIVERSAL = "latest", "latest_universal"
UNIVERSAL = "zero"
"""Directory in which a universal checkpoint has one directory for each parameter."""

OPTIMIZER_STATE = "optimizer_state.pt"
MODEL = "mp_rank_00_model_states.pt"
MODEL_OF_RANK_0 = f"zero_pp_rank_0_{MODEL}"
_RANK = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_(?P<part>\d+)_(optim|model)_states\.pt")
_WHOLE_MODEL = re.compile(r"mp_rank_(?P<part>\d+)(?:_\d+)?_model_states\.pt")
_EXPERT = re.compile(r"(layer_\d+_)?expert_\d+_mp_rank_\d+_model_states\.pt|expp_rank_\d+_.*")
_LAYER = re.compile(r"layer_\d+-model_.*")


@dataclass(frozen=True)
class Files:
    """:ivar directory: with the tag's name.
    :ivar model: of each rank that has one with everything but the optimizer.
    :ivar optimizer: of each rank; none where there is no ZeRO.
    """

    directory: Path
    model: Sequence[Path]
    optimizer: Sequence[Path]


def is_checkpoint(path: Path) -> bool:
    """Whether it looks like one of ZeRO, of whatever kind."""
    found = _tagged(path, LATEST)
    return found is not None and not is_universal(path) and any(map(_is_model, found.iterdir()))


def is_universal(path: Path) -> bool:
    return any((found / UNIVERSAL / OPTIMIZER_STATE).is_file() for found in _candidates(path))


def universal_directory(path: Path) -> Path:
    """That of the tag. Call it for what is one."""
    return next(found for found in _candidates(path) if (found / UNIVERSAL / OPTIMIZER_STATE).is_file())


def files_of(path: Path) -> Files:
    """The files of a checkpoint of ZeRO.

    :raises CheckpointUnreadable: there are none, a rank's is missing, or the model itself is split over ranks.
    """
    directory = _tagged(path, LATEST)
    if directory is None:
        tag = _tag(path, LATEST)
        raise CheckpointUnreadable(f"{path / LATEST} says {tag}, which is not there", "copy that directory too")
    names = sorted(entry.name for entry in directory.iterdir())
    _refuse_split_models(directory, names)
    ranks: dict[str, dict[int, Path]] = {"optim": {}, "model": {}}
    for name in names:
        if match := _RANK.fullmatch(name):
            ranks[match[3]][int(match[1])] = directory / name
    whole = directory / MODEL
    models = {0: whole} if whole.is_file() else ranks["model"]
    if not models:
        raise CheckpointUnreadable(f"{directory} lacks {MODEL}", "copy the whole checkpoint")
    return Files(directory, _complete(directory, models, "model"), _complete(directory, ranks["optim"], "optim"))


def require_ranks(files: Files, ranks: int) -> None:
    """:raises CheckpointUnreadable: there are parts of the optimizer of more or fewer ranks."""
    found = len(files.optimizer)
    if found < ranks:
        raise CheckpointUnreadable(
            f"{files.directory} has the optimizer's part of {found} of {ranks} ranks; "
            f"zero_pp_rank_{found}_mp_rank_00_optim_states.pt is missing",
            "copy the files of all nodes into one directory",
        )
    if found > ranks:
        raise CheckpointUnreadable(
            f"{files.directory} has the optimizer's part of {found} ranks, and was saved by {ranks}",
            "two checkpoints lie over each other; move the older one's files away",
        )


def _complete(directory: Path, found: dict[int, Path], kind: str) -> list[Path]:
    missing = next((rank for rank in range(max(found, default=-1)) if rank not in found), None)
    if missing is not None:
        raise CheckpointUnreadable(
            f"{directory}: zero_pp_rank_{missing}_mp_rank_00_{kind}_states.pt is missing",
            "copy the files of all nodes into one directory",
        )
    return [found[rank] for rank in sorted(found)]


def _refuse_split_models(directory: Path, names: Sequence[str]) -> None:
    for name in names:
        of_rank = _RANK.fullmatch(name) or _WHOLE_MODEL.fullmatch(name)
        if _LAYER.fullmatch(name):
            raise refused_as_split(directory / name, "pipeline parallelism")
        if _EXPERT.fullmatch(name):
            raise refused_as_split(directory / name, "a mixture of experts")
        if of_rank and int(of_rank["part"]):
            raise refused_as_split(directory / name, "tensor or pipeline parallelism")


def refused_as_split(what: Path, reason: str) -> CheckpointUnreadable:
    return CheckpointUnreadable(
        f"{what} is of a model that is split by {reason}, and not only by ZeRO; that is not converted here",
        "make a universal checkpoint of it with DeepSpeed's ds_to_universal, and convert that",
    )


def _candidates(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return [found for found in (path, _tagged(path, LATEST), _tagged(path, LATEST_UNIVERSAL)) if found is not None]


def _tagged(path: Path, latest: str) -> Path | None:
    """The directory of the tag, which is ``path`` itself where there are files of a checkpoint in it."""
    if not path.is_dir():
        return None
    if any(map(_is_model, path.iterdir())):
        return path
    tag = _tag(path, latest)
    return path / tag if tag and (path / tag).is_dir() else None


def _tag(path: Path, latest: str) -> str | None:
    try:
        tag = (path / latest).read_text(errors="replace")[:512].strip()
    except OSError:
        return None
    return tag if tag and Path(tag).name == tag else None


def _is_model(path: Path) -> bool:
    return bool(_WHOLE_MODEL.fullmatch(path.name)) or bool(_RANK.fullmatch(path.name))
