"""What an engine runs: one graph from the images that a caller has to logits, with all that training puts before the network inside."""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convatlas.classifier import Classifier
from convatlas.data.transforms.normalize import Normalizer
from convatlas.models import Network
from convatlas.storage import source_hash
from convatlas.storage.checked_safetensors import hash_tensors
from convatlas.storage.records import to_json

InferFn = Callable[[Tensor], Tensor]  # images (any n, c, h, w) -> logits (n, classes, ...), float32, on the CPU


class FusedNormalize(nn.Module):
    """What a `Standardiser` computes, in the two operators that compilers fuse best."""

    scale: Tensor
    shift: Tensor

    def __init__(self, standardiser: Normalizer):
        super().__init__()
        self.register_buffer("scale", standardiser.scale.clone())
        self.register_buffer("shift", standardiser.shift.clone())

    def forward(self, images: Tensor) -> Tensor:
        return images.to(self.scale.dtype) * self.scale + self.shift


@dataclass(frozen=True)
class InferenceModule:
    """`eager` is computed as training does it, `graph` is the same for compilers. `key` names it for a cache; None: it cannot be named."""

    eager: nn.Module
    graph: nn.Module
    key: str | None

    @property
    def device(self) -> torch.device:
        return next((tensor.device for tensor in (*self.eager.parameters(), *self.eager.buffers())), torch.device("cpu"))


@torch.inference_mode(False)  # a copy made inside a caller's inference mode could not be exported
def prepare_module(model: nn.Module | Classifier) -> InferenceModule:
    """A classifier takes uint8 images as its preprocessing leaves them; any other module what its forward takes. The caller's module is
    left as it is, and may change afterwards."""
    if isinstance(model, Classifier):
        network = model.model
        return InferenceModule(
            nn.Sequential(model.normalizer, network),
            nn.Sequential(FusedNormalize(model.normalizer), network),
            _key(network, model.normalizer),
        )
    whole = copy.deepcopy(model).eval()
    return InferenceModule(whole, whole, _key(whole))


@torch.inference_mode(False)
def export_program(part: InferenceModule, example: Tensor) -> torch.export.ExportedProgram:
    """The graph with a free batch, for images of the example's type and size."""
    images = torch.zeros((2, *example.shape[1:]), dtype=example.dtype, device=part.device)  # a batch of one would be taken for a constant
    with torch.no_grad():
        program = torch.export.export(part.graph, (images,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.max_pool2d.default and len(node.args) == 6:  # the last, if given: sizes are rounded up
            _cut(node)
    return program


def _cut(pool: torch.fx.Node) -> None:
    """Cut a window of pooling that reaches over the image's far edge: GoogLeNet's last on small images is larger than its input, which
    OpenVINO refuses."""
    arguments: Any = pool.args
    images, kernel, stride, padding, *rest = arguments
    sizes = images.meta["val"].shape[-2:]
    window = [min(k, n + 2 * p) for k, n, p in zip(kernel, sizes, padding, strict=True)]
    pool.args = (images, window, stride or kernel, padding, *rest)


def _key(*parts: nn.Module) -> str | None:
    """Only of the atlas's own networks is it known what they compute: their code, what they are called, and their tensors."""
    network = parts[0]
    if not isinstance(network, Network) or network.architecture is None:
        return None
    digest = hashlib.sha256(
        f"{source_hash.source_sha256('models', 'layers')} {torch.__version__} ".encode() + to_json(network.architecture)
    )
    for part in parts:
        digest.update(hash_tensors(dict(part.state_dict())).encode())
    return digest.hexdigest()
