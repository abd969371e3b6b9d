"""The network as PyTorch runs it, operator by operator: the same arithmetic as in evaluation, to the bit."""

import copy

import torch
from torch import Tensor, nn

from convatlas.inference.batching import in_pieces
from convatlas.inference.graph import Infer, Subject
from convatlas.runtime.device import Precision
from convatlas.runtime.runtime import Runtime

PIECE = 32  # images at once: more gains nothing and takes memory


def lacks() -> None:
    """What is not installed."""


def build(part: Subject, example: Tensor, precision: Precision) -> Infer:
    runtime = Runtime(part.device, precision)
    network = runtime.place(copy.deepcopy(part.eager))
    if precision == "bf16":
        _round_weights(network)

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode(), runtime.autocast():
            logits: Tensor = network(images.to(runtime.device))
        return logits.float().cpu()

    return in_pieces(run, PIECE)


def _round_weights(network: nn.Module) -> None:
    """Autocast rounds these in every forward: done once, the same bits come out, sooner."""
    for module in network.modules():
        if type(module) in (nn.Conv2d, nn.ConvTranspose2d, nn.Linear):
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(parameter.detach().to(torch.bfloat16), requires_grad=False))
