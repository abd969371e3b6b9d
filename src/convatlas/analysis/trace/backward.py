"""Memory that autograd saves for the backward pass."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from convatlas.analysis.trace.meta_copy import gc_paused
from convatlas.analysis.trace.modules import ModuleTracker
from convatlas.analysis.trace.shape_cache import ShapeCacheMode


@gc_paused()
def saved_for_backward(
    module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], device: str
) -> dict[str, int] | None:
    """Bytes that autograd saves in one forward pass in training mode, by path of the module that runs.

    Parameters and buffers are excluded. Batch norm stays in evaluation mode, where one image is enough; it
    saves the same, except for two numbers a channel. None for a module that does not run in training mode on
    these inputs, such as a detector that needs targets.
    """
    module_storages = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}
    tracker = ModuleTracker(module)
    saved_bytes: dict[str, int] = {}
    storages: set[int] = set()
    saved_tensors: list[Tensor] = []  # alive, so that no address is reused

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in module_storages and storage._cdata not in storages:
            storages.add(storage._cdata)
            saved_tensors.append(tensor)
            path = tracker.stack[-1].path if tracker.stack else ""
            saved_bytes[path] = saved_bytes.get(path, 0) + storage.nbytes()
        return tensor

    module.train()
    for submodule in module.modules():
        if isinstance(submodule, nn.modules.batchnorm._BatchNorm):
            submodule.eval()
    try:
        with (
            tracker.tracking(),
            torch.enable_grad(),
            torch.device(device),
            ShapeCacheMode(),
            saved_tensors_hooks(pack, lambda tensor: tensor),
        ):
            module(*args, **kwargs)
    except Exception:
        return None
    finally:
        module.eval()
    return saved_bytes
