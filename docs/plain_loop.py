"""A recipe in a plain PyTorch loop, as a tutorial writes it: fp32 or autocast to bf16, channels first, a
DataLoader over tensors, torch's optimiser.

    python docs/plain_loop.py NETWORK [--recipe small] [--epochs N] [--size PIXELS] [--bf16] [--seed N]

prints one JSON document. `make results` compares it with `convatlas train`. The loop leaves out what such
loops leave out: the average of the weights and the constraint on the filters' radius; RMSProp is torch's. The
network is ours, because the comparison is about the loop.
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
from convatlas.layers.init import he_normal
from convatlas.models import Network
from convatlas.optim.losses import CrossEntropy
from convatlas.optim.optimizers import SGD, RMSProp
from convatlas.recipes import Recipe

Splits = dict[str, tuple[Tensor, Tensor]]  # images and labels by split
EVAL_BATCH_SIZE = 250


class RandomCropFlip(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Images that are padded, cropped at random and flipped at random one by one, as by torchvision's
    transforms."""

    def __init__(self, images: Tensor, labels: Tensor, padding: int):
        self.images = images
        self.labels = labels
        self.padding = padding

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = F.pad(self.images[index], [self.padding] * 4)
        top, left, flip = torch.randint(2 * self.padding + 1, (3,)).tolist()
        size = self.images.shape[2]
        image = image[:, top : top + size, left : left + size]
        return (image.flip(2) if flip % 2 else image), self.labels[index]


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
    torch.manual_seed(arguments.seed)
    size = arguments.size or int(str(recipe.network.get("image_size", entry.input[1])))
    splits = load_splits(recipe, size)
    train_set = RandomCropFlip(*splits["train"], padding=2 if size <= 32 else 4)
    loader = torch.utils.data.DataLoader(train_set, batch_size=recipe.batch, shuffle=True, drop_last=True)
    network_arguments = recipe.network | {"num_classes": 10, "in_chans": 1, "image_size": size}
    model = models.build(models.get_architecture(entry.name, "paper", **network_arguments))
    if recipe.init == "he":
        model.apply(he_normal)
    seconds = train(model, recipe, loader, arguments.bf16)
    document = {
        "network": entry.name,
        "recipe": recipe.name,
        "seed": arguments.seed,
        "seconds": round(seconds, 1),
        "val_top1": top1(model, *splits["val"]),
        "test_top1": top1(model, *splits["test"]),
    }
    print(json.dumps(document))


def load_splits(recipe: Recipe, size: int) -> Splits:
    """Fashion-MNIST at `size` pixels a side, normalised by the recipe's rule: images (n, 1, size, size),
    float32."""
    dataset = open_dataset("fashion-mnist")
    preprocessing = fixed_size_preprocessing(1, (28, 28), (size, size))
    normalizer = recipe.normalize.fit(dataset.splits["train"].images, preprocessing)
    splits = {}
    for name, split in dataset.splits.items():
        assert isinstance(split.images, ArrayImages)
        images = torch.from_numpy(split.images.array).float() / 255
        if size == 32:
            images = F.pad(images, [2] * 4)
        else:
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        images = (images - normalizer.mean) / normalizer.std
        splits[name] = images, torch.from_numpy(split.labels)
    return splits


def train(
    model: Network, recipe: Recipe, loader: torch.utils.data.DataLoader[tuple[Tensor, Tensor]], bf16: bool
) -> float:
    """Train for the recipe's budget. Returns the seconds that it took."""
    assert isinstance(recipe.budget, recipes.Epochs)
    num_steps = recipe.budget.steps(len(loader))
    optimizer = build_optimizer(recipe, model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: recipe.schedule(min(step / num_steps, 1.0))
    )
    smoothing = recipe.loss.label_smoothing if isinstance(recipe.loss, CrossEntropy) else 0.0
    criterion = nn.CrossEntropyLoss(label_smoothing=smoothing)
    start = time.perf_counter()
    step = 0
    while step < num_steps:
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
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
            if step == num_steps:
                break
    return time.perf_counter() - start


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    options = recipe.optimizer
    assert isinstance(options, SGD | RMSProp)
    if isinstance(options, RMSProp):
        return torch.optim.RMSprop(
            model.parameters(),
            options.lr,
            alpha=options.alpha,
            eps=options.eps,
            weight_decay=options.weight_decay,
            momentum=options.momentum,
        )
    return torch.optim.SGD(
        model.parameters(),
        options.lr,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        nesterov=options.nesterov,
    )


@torch.no_grad()
def top1(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent."""
    model.eval()
    batches = zip(torch.split(images, EVAL_BATCH_SIZE), torch.split(labels, EVAL_BATCH_SIZE), strict=True)
    correct = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches)
    return 100 * correct / len(labels)


if __name__ == "__main__":
    main()
