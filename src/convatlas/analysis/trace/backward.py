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
def saved_for_backward(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], device: str) -> dict[str, int] | None:
    """Bytes that autograd keeps of one forward in training mode, the module's own tensors left out; by the module that made it keep them.

    Batch norm stays in evaluation mode, where one image is enough for it; it keeps the same, but for two numbers a channel. None where the
    module does not run in training mode on these inputs, as detectors that want targets.
    """
    owned = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}
    modules, kept, seen, held = ModuleTracker(module), dict[str, int](), set[int](), list[Tensor]()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in owned and storage._cdata not in seen:
            seen.add(storage._cdata)
            held.append(tensor)  # so that its address is not used again
            path = modules.open[-1].path if modules.open else ""
            kept[path] = kept.get(path, 0) + storage.nbytes()
        return tensor

    module.train()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
    try:
        with (
            modules.tracking(),
            torch.enable_grad(),
            torch.device(device),
            ShapeCacheMode(),
            saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            module(*args, **kwargs)
    except Exception:
        return None
    finally:
        module.eval()
    return kept
