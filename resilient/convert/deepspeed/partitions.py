"""Parameters, put together from the pieces of them that lie in the partitions of the ranks.

ZeRO lays all parameters of a group of the optimizer in one row and deals that out. In stages 1 and 2 the row is cut
into equal parts, wherever that falls: each rank's file says which pieces of which parameters it has. In stage 3 each
parameter is cut by itself, into as many pieces of one length as there are ranks; the last ones are filled up.

Where DeepSpeed was told to deal out the parameters in turn (``round_robin_gradients``), what the files of stages 1 and
2 say of the pieces is of another order than that in which they lie (0.19.8); that of the shapes is the true one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from resilient.convert.checkpoint import LazyTensor, empty
from resilient.errors import CheckpointUnreadable

_ALIGNMENT = 8  # elements; rows are filled up to a multiple of a few of them for each rank
_OTHER = "the files are not all of one checkpoint; copy it again from where it was saved"


@dataclass(frozen=True)
class Piece:
    """Where in one rank's partition a piece of a parameter lies."""

    rank: int
    start: int
    length: int


@dataclass(frozen=True)
class Parameter:
    """:ivar group: of the row that it lies in.
    :ivar pieces: in order.
    """

    name: str
    shape: tuple[int, ...]
    group: int
    pieces: Sequence[Piece]


class Pieced(LazyTensor):
    """A tensor whose elements lie in pieces in several files.

    :param pieces: each of one dimension.
    """

    def __init__(self, shape: Sequence[int], pieces: Sequence[LazyTensor]) -> None:
        super().__init__(pieces[0].dtype, shape)
        self._pieces = pieces

    def read(self) -> torch.Tensor:
        whole = empty(self)
        row, begin = whole.view(-1), 0
        for piece in self._pieces:
            (length,) = piece.shape
            row[begin : begin + length].copy_(piece.read())
            begin += length
        return whole


def dealt_out(
    directory: Path, shapes: Sequence[Mapping[str, Any]], lengths: Sequence[Sequence[int]], fillings: Any
) -> list[Parameter]:
    """The parameters of stages 1 and 2.

    :param shapes: of the parameters of each group, in the order in which they lie.
    :param lengths: of each group's row on each rank.
    :param fillings: of each group, how many elements lie behind each parameter; None for nothing.
    :raises CheckpointUnreadable: the rows are shorter than the parameters, or longer.
    """
    found = []
    for group, names in enumerate(shapes):
        begin = 0
        for number, (name, shape) in enumerate(names.items()):
            pieces = list(_between(begin, begin + prod(shape), [length[group] for length in lengths]))
            found.append(_checked(directory, Parameter(name, tuple(shape), group, pieces)))
            begin += prod(shape) + (fillings[group][number] if fillings is not None else 0)
        left = sum(length[group] for length in lengths) - begin
        if left >= 2 * len(lengths) * _ALIGNMENT:
            raise CheckpointUnreadable(
                f"{directory}: group {group} of the optimizer has {left} elements more than its parameters", _OTHER
            )
    return found


def _between(begin: int, end: int, lengths: Sequence[int]) -> Iterator[Piece]:
    start = 0
    for rank, length in enumerate(lengths):
        first, last = max(begin, start), min(end, start + length)
        if first < last:
            yield Piece(rank, first - start, last - first)
        start += length


def compare_with_mappings(
    directory: Path, parameters: Sequence[Parameter], mappings: Sequence[Sequence[Mapping[str, Any]]]
) -> None:
    """Compare where the parameters of stages 1 and 2 lie with what the ranks' files say of that.

    :param mappings: of each rank and group, which pieces it has.
    :raises CheckpointUnreadable: they say something else.
    """
    for parameter in parameters:
        said = [
            Piece(rank, int(address.start), int(address.numel))
            for rank, mapping in enumerate(mappings)
            if (address := mapping[parameter.group].get(parameter.name)) is not None and address.numel
        ]
        if said != list(parameter.pieces):
            raise CheckpointUnreadable(
                f"{directory}: the ranks have {sum(piece.length for piece in said)} elements of {parameter.name}, "
                f"whose shape is {list(parameter.shape)}, or have them elsewhere",
                _OTHER,
            )


def cut_evenly(directory: Path, shapes: Sequence[Mapping[str, Any]], ranks: int) -> list[Parameter]:
    """The parameters of stage 3; ``shapes`` are those of each of its groups."""
    found = []
    for group, names in enumerate(shapes):
        begin = 0
        for name, shape in names.items():
            length, count = prod(shape), -(-prod(shape) // ranks)
            lengths = [max(0, min(count, length - rank * count)) for rank in range(ranks)]
            pieces = [Piece(rank, begin, each) for rank, each in enumerate(lengths) if each]
            found.append(_checked(directory, Parameter(name, tuple(shape), group, pieces)))
            begin += count
    return found


def padded_length(shapes: Mapping[str, Any], ranks: int) -> int:
    """Elements of a group of stage 3 on each rank."""
    return sum(-(-prod(shape) // ranks) for shape in shapes.values())


def _checked(directory: Path, parameter: Parameter) -> Parameter:
    found = sum(piece.length for piece in parameter.pieces)
    if found != prod(parameter.shape):
        raise CheckpointUnreadable(
            f"{directory}: the ranks have {found} elements of {parameter.name}, whose shape is {list(parameter.shape)}",
            "the files are not all of one checkpoint; copy it again from where it was saved",
        )
    return parameter
