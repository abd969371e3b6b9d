"""What an engine runs: one graph from the caller's images to logits, with the normalisation inside."""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convatlas.analysis.trace.main_output import main_output
from convatlas.data.transforms.normalize import Normalizer
from convatlas.errors import UsageError, UserError, printable
from convatlas.models import Network
from convatlas.storage.checked_safetensors import hash_tensors
from convatlas.storage.records import to_json
from convatlas.storage.source_hash import source_sha256

InferFn = Callable[
    [Tensor], Tensor
]  # images (any n, c, h, w) -> logits (n, classes, ...), float32, on the CPU


class FusedNormalize(nn.Module):
    """What a `Normalizer` computes, in the two operators that compilers fuse best."""

    scale: Tensor
    shift: Tensor

    def __init__(self, normalizer: Normalizer):
        super().__init__()
        self.register_buffer("scale", normalizer.scale.clone())
        self.register_buffer("shift", normalizer.shift.clone())

    def forward(self, images: Tensor) -> Tensor:
        return images.to(self.scale.dtype) * self.scale + self.shift


class SingleOutput(nn.Module):
    """A module that returns several values, with its main output alone."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        main = main_output(self.module(images))
        assert main is not None  # `prepare_module` has tried it
        return main.tensor


@dataclass(frozen=True)
class InferenceModule:
    """A module to run: `eager` computes as training does, `graph` is the same for compilers.

    `key` identifies it in a cache; None where it has no name, because its code is not the atlas's.
    `output_place`: in words, which of several values that the module returns are the logits.
    """

    eager: nn.Module
    graph: nn.Module
    key: str | None
    output_place: str = ""

    @property
    def device(self) -> torch.device:
        tensors = (*self.eager.parameters(), *self.eager.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))


@torch.inference_mode(False)  # a copy made inside a caller's inference mode could not be exported
def prepare_module(model: nn.Module, example: Tensor | None = None) -> InferenceModule:
    """A module ready for an engine. The caller's module is copied, and may change afterwards.

    `nn.Sequential(normalizer, network)`, as `Classifier.inference_module` gives it, takes uint8 images; its
    weights are not copied, and the graph normalises in a form that compilers fuse. Of another library's
    module that returns several values, the main one are the logits; it is run once on the first image of
    `example` to see.

    Raises UsageError for what is no module, or for one without logits; UserError for one that fails.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"expected an nn.Module, not a {type(model).__name__}: of a classifier give "
            "classifier.inference_module()"
        )
    if isinstance(model, nn.Sequential) and len(model) == 2 and isinstance(model[0], Normalizer):
        normalizer, network = model[0], model[1]
        graph = nn.Sequential(FusedNormalize(normalizer), network)
        return InferenceModule(model, graph, _cache_key(network, normalizer))
    module = copy.deepcopy(model).eval()
    place = ""
    if example is not None and not isinstance(module, Network):
        place = _logits_place(module, example[:1])
    if place:
        module = SingleOutput(module)
    return InferenceModule(module, module, _cache_key(module), place)


def _logits_place(module: nn.Module, image: Tensor) -> str:
    """Where the logits stand among the values that the module returns; "" where it returns them alone."""
    name = type(module).__name__
    device = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), image.device)
    try:
        with torch.no_grad():
            output = module(image.to(device))
    except UserError:
        raise
    except Exception as error:  # of code that is not ours
        reason = printable(str(error).strip().partition("\n")[0])[:200]
        raise UserError(
            f"{name} fails on an image of shape {tuple(image.shape[1:])} and {image.dtype} "
            f"({type(error).__name__}: {reason}): give an example as the images will come"
        ) from None
    main = main_output(output)
    if main is None or main.tensor.dim() < 2 or len(main.tensor) != len(image):
        given = f"a {type(output).__name__} without tensors"
        if main is not None:
            given = f"a tensor of shape {tuple(main.tensor.shape)} for one image"
        raise UsageError(f"{name} returns {given}: expected logits (n, classes)")
    return main.place


@torch.inference_mode(False)
def export_program(module: InferenceModule, example: Tensor) -> torch.export.ExportedProgram:
    """The graph with a free batch, for images of the example's type and size."""
    # of two images: torch.export treats a batch of one as a constant
    images = torch.zeros((2, *example.shape[1:]), dtype=example.dtype, device=module.device)
    with torch.no_grad():
        program = torch.export.export(
            module.graph, (images,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},)
        )
    for node in program.graph.nodes:
        # the sixth argument, where there is one, says that output sizes are rounded up
        if node.target is torch.ops.aten.max_pool2d.default and len(node.args) == 6:
            _clip_pooling_window(node)
    return program


def _clip_pooling_window(pool: torch.fx.Node) -> None:
    """Clip a pooling window that reaches over the image's far edge.

    GoogLeNet's last window is larger than its input on small images, which OpenVINO refuses.
    """
    arguments: Any = pool.args
    images, kernel, stride, padding, *others = arguments
    sizes = images.meta["val"].shape[-2:]
    window = [min(k, n + 2 * p) for k, n, p in zip(kernel, sizes, padding, strict=True)]
    pool.args = (images, window, stride or kernel, padding, *others)


def _cache_key(*modules: nn.Module) -> str | None:
    """A hash of code, architecture and tensors; None for a network that is not the atlas's."""
    network = modules[0]
    if not isinstance(network, Network) or network.architecture is None:
        return None
    code = f"{source_sha256('models', 'layers')} {torch.__version__} "
    digest = hashlib.sha256(code.encode() + to_json(network.architecture))
    for module in modules:
        digest.update(hash_tensors(dict(module.state_dict())).encode())
    return digest.hexdigest()
