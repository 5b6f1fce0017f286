"""What one capture leaves for the next: as long as the state keeps its form, only what has changed is looked at anew.

Nothing is taken for unchanged without being asked. The nesting, the keys and the types of all values are compared;
every tensor must be the same view of the same storage as before (``is_set_to``) and of the same type; other values
are compared, or written anew. When anything does not fit, the capture starts from nothing and makes a new plan.

Some tensors are new ones at every capture, such as the states of the generators. They are *loose*: their shape must
stay, and they must share memory with nothing else in the state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
import torch

from resilient.snapshot import tree
from resilient.snapshot.skeleton import Parts, Skeleton
from resilient.worker.leaves import TensorCollector, as_tensor
from resilient.worker.ownership import is_owned, named_parameters, owned_by_optimizers, parameters_of
from resilient.worker.positions import Stateful
from resilient.worker.sharded import is_distributed, local_parts, specs_of

_LOOSE_AFTER = 2  # a tensor that has moved so often will move again
_COMPARABLE = frozenset({bool, int, str, type(None)})  # equal values of one of these types are the same JSON


@dataclass(frozen=True)
class Content:
    """What goes into an image.

    :ivar state: the JSON.
    :ivar sources: tensors with elements, each stored once; they keep their memory alive, whatever becomes of the
        objects that they come from.
    :ivar owned: for each of them, whether only an optimizer's step changes it.
    :ivar watched: tensors beside the sources whose versions tell of changes to those that are owned: torch counts the
        changes of a distributed tensor there, and not at the part of it that is stored.
    """

    state: bytes
    sources: Sequence[torch.Tensor]
    owned: Sequence[bool]
    watched: Sequence[torch.Tensor] = ()


class Plan:
    """The form of a state and the places of its tensors, as the capture before found them.

    :param moved: how often the tensor at each path has moved, over all plans of a run.
    :raises StateError: something cannot be captured; the message names its path.

    :ivar reusable: whether :meth:`content` may be asked.
    """

    def __init__(
        self,
        objects: Mapping[str, Stateful],
        states: Mapping[str, Any],
        parts: Parts,
        moved: Counter[str],
        *,
        allow_pickle: bool,
    ) -> None:
        collector = TensorCollector()
        self._skeleton = Skeleton.of(states, parts, collector, allow_pickle=allow_pickle)
        in_keys = len(collector.tensors)
        self._values = _Values(self._skeleton, parts.leaves, collector, allow_pickle=allow_pickle)
        self._tensors = _Tensors(objects, self._skeleton.paths, parts.leaves, collector, moved)
        self._values.about = _about({"meshes": collector.meshes.described, "parameters": named_parameters(objects)})
        self.reusable = not in_keys and self._values.without_tensors and self._tensors.separable
        self.signature, self.specs = collector.signature, collector.specs()

    def first_content(self, step: int) -> Content:
        """The content of the state that the plan was made from; ask once, for it is not kept."""
        sources, self._tensors.first = self._tensors.first, []
        return Content(self._values.dumps(step), sources, self._tensors.owned, self._tensors.watched)

    def content(self, step: int, parts: Parts) -> Content | None:
        """The content of another state, or None when it has not the form of this plan."""
        if not self._skeleton.fits(parts):
            return None
        try:
            sources = self._tensors.find(parts.leaves)
        except RuntimeError:  # not of this kind any more, such as one that has become sparse
            return None
        if sources is None or not self._values.update(parts.leaves):
            return None
        return Content(self._values.dumps(step), sources, self._tensors.owned, self._tensors.watched)


class _Values:
    """The JSON of the state, in pieces: the text between the values that are no tensors, and these."""

    def __init__(
        self, skeleton: Skeleton, leaves: Sequence[Any], collector: TensorCollector, *, allow_pickle: bool
    ) -> None:
        self._allow_pickle = allow_pickle
        self._is_value = [not isinstance(leaf, (torch.Tensor, np.ndarray)) for leaf in leaves]
        self._paths = list(compress(skeleton.paths, self._is_value))
        values = list(compress(leaves, self._is_value))
        self._is_plain = [type(value) in _COMPARABLE for value in values]
        self._plain = list(compress(values, self._is_plain))
        self._plain_at = list(compress(range(len(values)), self._is_plain))
        self._others_at = [index for index, plain in enumerate(self._is_plain) if not plain]
        self.without_tensors = True
        self.about = ""  # further members of the JSON, each with a comma behind it
        self._texts = self._encode_all(skeleton, leaves, collector)

    def _encode_all(self, skeleton: Skeleton, leaves: Sequence[Any], collector: TensorCollector) -> list[str]:
        """Text, value, text, …, value, text: the values at the odd places."""
        texts, fixed = [], [skeleton.texts[0]]
        for path, leaf, is_value, after in zip(skeleton.paths, leaves, self._is_value, skeleton.texts[1:], strict=True):
            if is_value:
                before = len(collector.tensors)
                texts += ["".join(fixed), self._encode(path, leaf, collector)]
                fixed = []
                self.without_tensors &= len(collector.tensors) == before  # a set may hold some
            else:
                fixed.append(tree.dumps(collector(path, leaf)).decode())
            fixed.append(after)
        return [*texts, "".join(fixed)]

    def _encode(self, path: str, value: Any, collector: TensorCollector) -> str:
        return tree.dumps(tree.encode(value, collector, path=path, allow_pickle=self._allow_pickle)).decode()

    def update(self, leaves: Sequence[Any]) -> bool:
        """Take the values of now, which have the types of before; False when there are tensors in one of them.

        What cannot be compared exactly is encoded anew.
        """
        collector = TensorCollector()
        values = list(compress(leaves, self._is_value))
        plain = list(compress(values, self._is_plain))
        if plain != self._plain:
            for index, new, old in zip(self._plain_at, plain, self._plain, strict=True):
                if new != old:
                    self._texts[2 * index + 1] = self._encode(self._paths[index], new, collector)
            self._plain = plain
        for index in self._others_at:
            self._texts[2 * index + 1] = self._encode(self._paths[index], values[index], collector)
        return not collector.tensors

    def dumps(self, step: int) -> bytes:
        return f'{{"step":{step},{self.about}"objects":{"".join(self._texts)}}}'.encode()


@dataclass(frozen=True)
class _Loose:
    """A tensor that is a new one at every capture.

    :ivar index: among all tensors of the state.
    :ivar place: among those that are stored, or None when it has no elements.
    """

    index: int
    place: int | None
    shape: torch.Size
    stride: tuple[int, ...]
    device: torch.device

    def fits(self, tensor: torch.Tensor) -> bool:
        return tensor.shape == self.shape and tensor.stride() == self.stride and tensor.device == self.device


class _Tensors:
    """All tensors and arrays of the state.

    :ivar owned: for each tensor that is stored, whether an optimizer owns it.
    :ivar watched: as in :class:`Content`.
    :ivar separable: no tensor that shares its memory with another is loose.
    """

    def __init__(
        self,
        objects: Mapping[str, Stateful],
        paths: Sequence[str],
        leaves: Sequence[Any],
        collector: TensorCollector,
        moved: Counter[str],
    ) -> None:
        self._objects = objects
        self._moved = moved
        self._is_tensor = [isinstance(leaf, (torch.Tensor, np.ndarray)) for leaf in leaves]
        found = list(compress(leaves, self._is_tensor))
        self._paths = list(compress(paths, self._is_tensor))
        self._arrays = [(index, leaf.shape, leaf.dtype) for index, leaf in enumerate(found) if _is_array(leaf)]
        wholes = [as_tensor(leaf) if _is_array(leaf) else leaf for leaf in found]
        self._specs = specs_of(wholes)
        tensors = local_parts(wholes)
        self._dtypes = [tensor.dtype for tensor in tensors]
        loose = [_is_array(leaf) or moved[path] >= _LOOSE_AFTER for leaf, path in zip(found, self._paths, strict=True)]
        self._firm = [not is_loose for is_loose in loose]
        self._aliases = [tensor.detach() for tensor in compress(tensors, self._firm)]
        self._addresses = {alias.data_ptr() for alias in self._aliases}
        stored = [path for path, tensor in collector.tensors.items() if tensor.numel()]
        places = {path: place for place, path in enumerate(stored)}
        aliases = dict(zip(compress(self._paths, self._firm), self._aliases, strict=True))
        self._sources = [aliases.get(path) for path in stored]
        self.first = [aliases[path] if path in aliases else collector.tensors[path].detach() for path in stored]
        self._loose = [
            _Loose(index, places.get(self._paths[index]), tensor.shape, tensor.stride(), tensor.device)
            for index, tensor in enumerate(tensors)
            if loose[index]
        ]
        self.separable = self._loose_fit(tensors)
        self._parameters: list[int] = []
        self._owned_loose = True
        self._own(self.first)

    def find(self, leaves: Sequence[Any]) -> list[torch.Tensor] | None:
        """What to copy, in the order of the plan's specs, or None when the tensors are not as they were."""
        wholes = list(compress(leaves, self._is_tensor))
        for index, shape, dtype in self._arrays:
            if wholes[index].shape != shape or wholes[index].dtype != dtype:
                return None
            wholes[index] = as_tensor(wholes[index])
        if specs_of(wholes) != self._specs:
            return None
        tensors = local_parts(wholes)
        if [tensor.dtype for tensor in tensors] != self._dtypes or not self._all_stayed(tensors):
            return None
        if not self._loose_fit(tensors):
            return None
        sources: list[Any] = list(self._sources)
        for loose in self._loose:
            if loose.place is not None:
                sources[loose.place] = tensors[loose.index].detach()
        self._own(sources)
        return sources

    def _all_stayed(self, tensors: Sequence[torch.Tensor]) -> bool:
        if all(map(torch.Tensor.is_set_to, compress(tensors, self._firm), self._aliases)):
            return True
        firm = zip(compress(self._paths, self._firm), compress(tensors, self._firm), self._aliases, strict=True)
        self._moved.update(path for path, tensor, alias in firm if not tensor.is_set_to(alias))
        return False

    def _loose_fit(self, tensors: Sequence[torch.Tensor]) -> bool:
        addresses = set()
        for loose in self._loose:
            tensor = tensors[loose.index]
            if not loose.fits(tensor):
                return False
            address = tensor.data_ptr()
            if address and (address in self._addresses or address in addresses):
                return False
            addresses.add(address)
        return True

    def _own(self, sources: Sequence[torch.Tensor]) -> None:
        """Find out what is owned, unless it is certain that nothing has changed hands since the last time."""
        parameters = [
            parameter.data_ptr()
            for parameter in local_parts(parameters_of(self._objects.values()))
            if parameter.layout is torch.strided
        ]
        if parameters == self._parameters and not self._owned_loose:
            return
        owned = owned_by_optimizers(self._objects)
        self.owned = [is_owned(source, owned) for source in sources]
        distributed = [tensor for tensor in owned.values() if is_distributed(tensor)]
        self.watched = [*distributed, *local_parts(distributed)]
        self._parameters = parameters
        self._owned_loose = any(self.owned[loose.place] for loose in self._loose if loose.place is not None)


def _about(members: Mapping[str, Any]) -> str:
    return "".join(f'"{name}":{tree.dumps(value).decode()},' for name, value in members.items() if value)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray)
