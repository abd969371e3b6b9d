"""The activations of a forward: their memory, depth and receptive field while they are alive."""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from convatlas.analysis.receptive_field.axes import ImageAxes


@dataclass(slots=True)
class TensorInfo:
    """What is known of a tensor as long as it lives."""

    reference: weakref.ref[Tensor]
    memory: int | None  # its storage's number; none where that is the module's own
    axes: ImageAxes | None = None
    depth: int = 0  # convolutions and linear layers on the longest path to it
    reduced: int | None = None  # channels before the 1x1 convolution that made it, where that reduced them


class ActivationTracker:
    """The activations: what is known of each, how much memory is alive, and between which operations each memory is needed."""

    def __init__(self, owned: Iterable[Tensor]):
        self._owned = {t.untyped_storage()._cdata for t in owned}  # the module's own tensors are no activations
        self._noted: dict[int, TensorInfo] = {}  # by id
        self._holders: dict[int, int] = {}  # by a storage's address: how many tensors hold it
        self._number: dict[int, int] = {}  # by address, which is used again after a release: a number that is not
        self.elements: list[int] = []
        self.born: list[int] = []
        self.last_read: list[int] = []
        self.live = 0

    def __getitem__(self, tensor: Tensor) -> TensorInfo | None:
        return self._noted.get(id(tensor))

    def axes(self, tensor: Tensor) -> ImageAxes | None:
        noted = self._noted.get(id(tensor))
        return None if noted is None else noted.axes

    def track(self, tensor: Tensor, now: int) -> tuple[TensorInfo, bool]:
        """Note the tensor, and count its memory as alive while any tensor holds it; whether that memory is new."""
        key = id(tensor)
        noted = self._noted.get(key)
        if noted is not None:
            return noted, False
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        fresh = address not in self._number and address not in self._owned
        if fresh:
            self._number[address], self._holders[address] = len(self.elements), 0
            self.elements.append(size // tensor.element_size())
            self.born.append(now)
            self.last_read.append(now)
            self.live += size
        if address not in self._owned:
            self._holders[address] += 1

        def release(_: object) -> None:
            del self._noted[key]
            if address not in self._owned:
                self._holders[address] -= 1
                if not self._holders[address]:
                    del self._holders[address], self._number[address]
                    self.live -= size

        noted = self._noted[key] = TensorInfo(weakref.ref(tensor, release), self._number.get(address))
        return noted, fresh

    def read(self, tensor: Tensor, now: int) -> None:
        noted = self._noted.get(id(tensor))
        if noted is not None and noted.memory is not None:
            self.last_read[noted.memory] = now
