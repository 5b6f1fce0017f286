"""What every script of the goodput benchmark is told. No torch here: a script says that it is there before it imports
that.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """:param folder: of this run: ``steps`` is the record, ``checkpoints`` is for what the script saves.
    :param save_every: steps between two checkpoints; ``keep`` of them stay.
    :param spike: the first of the spike's steps; 0 for none.
    """

    under: str
    folder: Path
    steps: int
    save_every: int
    keep: int
    seed: int
    spike: int = 0

    @classmethod
    def parse(cls) -> Options:
        parser = argparse.ArgumentParser()
        parser.add_argument("--under", required=True)
        parser.add_argument("--folder", type=Path, required=True)
        for name in ("steps", "save-every", "keep", "seed", "spike"):
            parser.add_argument(f"--{name}", type=int, required=True)
        return cls(**vars(parser.parse_args()))

    def arguments(self) -> list[str]:
        return [part for name, value in vars(self).items() for part in (f"--{name.replace('_', '-')}", str(value))]

    @property
    def record(self) -> Path:
        return self.folder / "steps"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def final(self) -> Path:
        return self.folder / "final.json"

    @property
    def spike_reached(self) -> Path:
        """Has the last step that the spike touched."""
        return self.folder / "spike-reached"
