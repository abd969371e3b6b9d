"""The activations of a forward pass: memory, depth and receptive field of each while it is alive."""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from convatlas.analysis.receptive_field.axes import ImageAxes


@dataclass(slots=True)
class TensorInfo:
    """The properties of a live tensor."""

    reference: weakref.ref[Tensor]
    storage_index: int | None  # None for a storage of the module's parameters and buffers
    axes: ImageAxes | None = None
    source: int | None = None  # the operation that wrote it last, as in `Operation.sources`
    depth: int = 0  # convolutions and linear layers on the longest path to it
    unreduced_channels: int | None = None  # channels before the 1x1 convolution that reduced it; else None


class ActivationTracker:
    """Every live activation, the live bytes, and the operations between which each storage is needed.

    `step` is the index of the operation that runs; -1 before the first.
    """

    def __init__(self, module_tensors: Iterable[Tensor]):
        # Parameters and buffers are no activations.
        self._module_storages = {tensor.untyped_storage()._cdata for tensor in module_tensors}
        self._infos: dict[int, TensorInfo] = {}  # by id of the tensor
        self._num_tensors: dict[int, int] = {}  # live tensors that share a storage, by its address
        # An address is reused after its storage is freed, so each storage gets an index that is not.
        self._storage_indices: dict[int, int] = {}
        self.elements: list[int] = []  # of each storage
        self.created_at: list[int] = []  # the step that made each storage
        self.last_read_at: list[int] = []
        self.live_bytes = 0

    def __getitem__(self, tensor: Tensor) -> TensorInfo | None:
        return self._infos.get(id(tensor))

    def axes_of(self, tensor: Tensor) -> ImageAxes | None:
        info = self._infos.get(id(tensor))
        return None if info is None else info.axes

    def sources(self, tensors: Iterable[Tensor]) -> tuple[int, ...]:
        """The operations and inputs that the tensors come from, each once."""
        infos = (self._infos.get(id(tensor)) for tensor in tensors)
        return tuple({info.source: None for info in infos if info is not None and info.source is not None})

    def track(self, tensor: Tensor, step: int) -> tuple[TensorInfo, bool]:
        """The tensor's info, and whether its storage is new.

        The storage counts as live as long as any tensor refers to it.
        """
        key = id(tensor)
        info = self._infos.get(key)
        if info is not None:
            return info, False
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        is_activation = address not in self._module_storages
        is_new = is_activation and address not in self._storage_indices
        if is_new:
            self._storage_indices[address] = len(self.elements)
            self._num_tensors[address] = 0
            self.elements.append(size // tensor.element_size())
            self.created_at.append(step)
            self.last_read_at.append(step)
            self.live_bytes += size
        if is_activation:
            self._num_tensors[address] += 1

        def release(_: object) -> None:
            del self._infos[key]
            if is_activation:
                self._num_tensors[address] -= 1
                if not self._num_tensors[address]:
                    del self._num_tensors[address], self._storage_indices[address]
                    self.live_bytes -= size

        info = TensorInfo(weakref.ref(tensor, release), self._storage_indices.get(address))
        self._infos[key] = info
        return info, is_new

    def mark_read(self, tensor: Tensor, step: int) -> None:
        info = self._infos.get(id(tensor))
        if info is not None and info.storage_index is not None:
            self.last_read_at[info.storage_index] = step
