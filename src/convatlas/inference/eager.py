"""The network as PyTorch runs it, operator by operator: the same arithmetic as in evaluation, to the bit."""

import copy

import torch
from torch import Tensor, nn

from convatlas.inference.batching import chunked
from convatlas.inference.graph import InferenceModule, InferFn
from convatlas.runtime.device import Precision
from convatlas.runtime.runtime import Runtime

MAX_BATCH = 32  # images at once: more gains nothing and takes memory


def missing_requirement() -> None:
    """What is not installed."""


def build(part: InferenceModule, example: Tensor, precision: Precision) -> InferFn:
    runtime = Runtime(part.device, precision)
    network = runtime.to_device(copy.deepcopy(part.eager))
    if precision == "bf16":
        _round_weights(network)

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode(), runtime.autocast():
            logits: Tensor = network(images.to(runtime.device))
        return logits.float().cpu()

    return chunked(run, MAX_BATCH)


def _round_weights(network: nn.Module) -> None:
    """Autocast rounds these in every forward: done once, the same bits come out, sooner."""
    for module in network.modules():
        if type(module) in (nn.Conv2d, nn.ConvTranspose2d, nn.Linear):
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(parameter.detach().to(torch.bfloat16), requires_grad=False))
