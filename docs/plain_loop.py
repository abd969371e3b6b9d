"""A recipe in a plain PyTorch loop, as a tutorial writes it: fp32 or autocast to bf16, channels first, a DataLoader over tensors, torch's
optimiser.

    python docs/plain_loop.py NETWORK [--recipe small] [--epochs N] [--size PIXELS] [--bf16] [--seed N]

prints one JSON document. `make results` sets it beside ours. What such loops leave out is left out: the average of the weights, the
filters' radius; RMSProp is torch's. The network is ours: what is compared is the loop.
"""

import argparse
import json
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convatlas import models, recipes
from convatlas.data import open_dataset
from convatlas.data.dataset import ArrayImages
from convatlas.data.transforms.preprocessing import fixed_size_preprocessing
from convatlas.layers.init import he
from convatlas.optim.losses import CrossEntropy
from convatlas.optim.optimizers import SGD, RMSProp


class Augmented(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Each image padded and cropped at random, mirrored or not, as torchvision's transforms do, one by one."""

    def __init__(self, images: Tensor, labels: Tensor, pad: int):
        self.images, self.labels, self.pad = images, labels, pad

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = F.pad(self.images[index], [self.pad] * 4)
        top, left, mirrored = torch.randint(2 * self.pad + 1, (3,)).tolist()
        size = self.images.shape[2]
        image = image[:, top : top + size, left : left + size]
        return (image.flip(2) if mirrored % 2 else image), self.labels[index]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--size", type=int)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    entry = models.get_entry(arguments.network)
    recipe = recipes.get_recipe(arguments.recipe, entry)
    if arguments.epochs:
        recipe = recipe.replace(budget=recipes.Epochs(arguments.epochs))
    assert isinstance(recipe.budget, recipes.Epochs)
    torch.manual_seed(arguments.seed)

    dataset = open_dataset("fashion-mnist")
    size = arguments.size or int(str(recipe.network.get("image_size", entry.input[1])))
    data = {}
    for part, split in dataset.splits.items():
        assert isinstance(split.images, ArrayImages)
        images = torch.from_numpy(split.images.array).float() / 255
        images = F.pad(images, [2] * 4) if size == 32 else F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        data[part] = images, torch.from_numpy(split.labels)
    train = dataset.splits["train"].images
    standard = recipe.standardise.fit(train, fixed_size_preprocessing(1, (28, 28), (size, size)))
    data = {part: ((images - standard.mean) / standard.std, labels) for part, (images, labels) in data.items()}
    loader = torch.utils.data.DataLoader(
        Augmented(*data["train"], pad=2 if size <= 32 else 4), batch_size=recipe.batch, shuffle=True, drop_last=True
    )

    model = models.build(
        models.get_architecture(entry.name, "paper", **(recipe.network | {"num_classes": 10, "in_chans": 1, "image_size": size}))
    )
    if recipe.initialise == "he":
        model.apply(he)
    chosen, kept = recipe.optimizer, {"lr": recipe.optimizer.lr, "momentum": recipe.optimizer.momentum}  # type: ignore[union-attr]
    if isinstance(chosen, RMSProp):
        optimizer: torch.optim.Optimizer = torch.optim.RMSprop(
            model.parameters(), alpha=chosen.alpha, eps=chosen.eps, weight_decay=chosen.weight_decay, **kept
        )
    else:
        assert isinstance(chosen, SGD)
        optimizer = torch.optim.SGD(model.parameters(), nesterov=chosen.nesterov, weight_decay=chosen.weight_decay, **kept)
    steps = recipe.budget.steps(len(loader))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: recipe.schedule(min(step / steps, 1.0)))
    smoothing = recipe.loss.label_smoothing if isinstance(recipe.loss, CrossEntropy) else 0.0
    criterion = nn.CrossEntropyLoss(label_smoothing=smoothing)

    began, step = time.perf_counter(), 0
    while step < steps:
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
                outputs = model.training_outputs(x)
                loss = criterion(outputs["logits"], y)
                for head, weight in recipe.auxiliary.items():
                    loss = loss + weight * criterion(outputs[head], y)
            loss.backward()
            if recipe.clip is not None:
                recipe.clip(model.parameters())
            optimizer.step()
            scheduler.step()
            step += 1
            if step == steps:
                break
    seconds = time.perf_counter() - began
    model.eval()
    with torch.no_grad():
        right = {part: sum((model(x).argmax(1) == y).sum().item() for x, y in _batches(*data[part])) for part in ("val", "test")}
    found = {f"{part}_top1": 100 * right[part] / len(data[part][1]) for part in right}
    print(json.dumps({"network": entry.name, "recipe": recipe.name, "seed": arguments.seed, "seconds": round(seconds, 1)} | found))


def _batches(images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(images.split(250), labels.split(250), strict=True))  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
