"""Whether the network can train on the micro-batches of a run: batch norm cannot normalise over one value."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.models import Network
from convatlas.training.planning.workload import untrained_objective
from convatlas.training.run import Run
from convatlas.training.step import micro_batch_sizes
from convatlas.training.tasks import task_of


def check_micro_batches(run: Run, network: Network, world_size: int) -> None:
    """Raises UsageError where a rank trains on a micro-batch of one image that the network normalises over.

    `network`: the run's network on meta tensors.
    """
    share = run.recipe.batch // world_size
    if share < 1 or (run.sync_batch_norm and world_size > 1):
        return
    sizes = micro_batch_sizes(share, run.recipe.micro_batch)
    if sizes[-1] > 1:
        return
    layer = _layer_that_needs_two(run, network)
    if layer is None:
        return
    ranks = f" for each of {world_size} ranks" if world_size > 1 else ""
    parts = [str(size) for size in sizes]
    if len(parts) > 4:
        parts[2:-1] = ["..."]
    divided = f", in parts of {' + '.join(parts)}" if len(sizes) > 1 else ""
    raise UsageError(
        f"a batch of {run.recipe.batch} is {share} image{'s' * (share > 1)}{ranks}{divided}, and {layer} of "
        f"{run.model.name} cannot normalise a single image, which has one value a channel there: "
        f"{_remedy(run, share, world_size)}"
    )


def _remedy(run: Run, share: int, world_size: int) -> str:
    """What to type so that no micro-batch has one image."""
    if share > 1:
        return f"take --set recipe.micro_batch={2 if share % 2 == 0 else 3}"
    smallest = 2 * world_size
    if run.content.counts["train"] < smallest:
        return f"the data set needs at least {smallest} training images, or --set frozen_statistics=true"
    if run.recipe.batch_rule is None:
        return f"take a larger batch, for example --set recipe.batch={smallest}"
    return f"take a larger batch, for example --batch {smallest}"


def _layer_that_needs_two(run: Run, network: Network) -> str | None:
    """The path of the first normalisation that fails for a single image in training, or None."""
    last_path = ""

    def remember(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            nonlocal last_path
            last_path = path

        return hook

    handles = [
        module.register_forward_pre_hook(remember(path))
        for path, module in network.named_modules()
        if "Norm" in type(module).__name__
    ]
    with torch.device("meta"):
        images = torch.empty(1, *run.content.preprocessing.shape, dtype=torch.uint8)
        targets = task_of(run).example_targets(1, len(run.content.classes), run.content.preprocessing)
        objective = untrained_objective(run, network).train()
    try:
        objective(images, targets)
    except ValueError as error:
        if "more than 1" not in str(error):
            raise
        return last_path or "a normalisation"
    finally:
        for handle in handles:
            handle.remove()
    return None
