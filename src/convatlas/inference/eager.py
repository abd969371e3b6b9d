"""PyTorch, operator by operator: the arithmetic of evaluation, to the bit."""

import copy

import torch
from torch import Tensor, nn

from convatlas.inference.batching import chunked
from convatlas.inference.graph import InferenceModule, InferFn
from convatlas.runtime.device import Precision
from convatlas.runtime.runtime import Runtime

MAX_BATCH = 32  # larger batches are no faster, and take memory


def missing_requirement() -> None:
    """The package to install before this engine can run: none."""


def build(module: InferenceModule, example: Tensor, precision: Precision) -> InferFn:
    runtime = Runtime(module.device, precision)
    network = runtime.to_device(copy.deepcopy(module.eager))
    if precision == "bf16":
        _round_weights(network)

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode(), runtime.autocast():
            logits: Tensor = network(images.to(runtime.device))
        return logits.float().cpu()

    return chunked(run, MAX_BATCH)


def _round_weights(network: nn.Module) -> None:
    """Round the weights to bf16 once: autocast would do so in every forward, with the same result."""
    for module in network.modules():
        if type(module) in (nn.Conv2d, nn.ConvTranspose2d, nn.Linear):
            for name, parameter in module.named_parameters(recurse=False):
                rounded = parameter.detach().to(torch.bfloat16)
                setattr(module, name, nn.Parameter(rounded, requires_grad=False))
