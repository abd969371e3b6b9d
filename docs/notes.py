"""What circulating notes say of these networks, and what is so: each with the expression that shows it. `make docs` calls this."""

import contextlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch

import convatlas as ca
from convatlas import models, recipes
from convatlas.analysis import formulas

PAGE = Path(__file__).parent / "generated" / "notes.md"
HEAD = """# What circulating notes get wrong

Lecture notes, blog posts and translations repeat slips about these papers. Each stands here with what the paper prints, where, and the
expression that shows it; the answers were computed when this page was made (`make docs`). Before each of them:

```python
import math
import convatlas as ca
from convatlas import models, recipes
from convatlas.analysis import formulas


def read(name, **arguments):
    return ca.analyze(ca.create_model(name, **arguments), models.get_entry(name).input)


def outputs(name, *paths):
    return ["x".join(map(str, read(name).module(path).output_shape[1:])) for path in paths]
```

"""
WORDS = """## Slips of wording

Nothing to compute: where to read it.

"""


def read(name: str, **arguments: Any) -> ca.analysis.Report:
    with torch.device("meta"):
        return ca.analyze(ca.create_model(name, **arguments), models.get_entry(name).input)


def outputs(name: str, *paths: str) -> list[str]:
    return ["x".join(map(str, read(name).module(path).output_shape[1:])) for path in paths]


class Note(NamedTuple):
    claim: str
    right: str
    source: str
    shows: tuple[str, ...]  # expressions


NOTES = (
    Note(
        "VGG-16 keeps 93 MB of activations an image",
        "15.2 million numbers, 61 MB in fp32; 93 MB is the sum of a well-known table, added up wrongly.",
        "arXiv:1409.1556, Table 1, D",
        ('read("vgg16").activation_bytes / 1e6', 'read("vgg16").activation_bytes // 4'),
    ),
    Note(
        "VGG takes 140M of memory",
        "About 138 million parameters, which are 553 MB.",
        "arXiv:1409.1556, Table 2",
        ('read("vgg16").params', 'read("vgg16").size_bytes["fp32"] / 1e6'),
    ),
    Note(
        "VGG has two structures, VGG-16 and VGG-19",
        "Six: A, A-LRN, B, C, D, E (batch norm came later and is not of the paper).",
        "arXiv:1409.1556, Table 1",
        ('[name for name in ca.list_models("vgg*") if "bn" not in name]',),
    ),
    Note(
        "Three 3x3 layers have 27 C^2 weights, one 7x7 has 49 C^2",
        "So it is: 81 % more.",
        "arXiv:1409.1556, sec. 2.3",
        ("3 * formulas.convolution_params(1, 1, 3), formulas.convolution_params(1, 1, 7)", "1 / formulas.stack_ratio([3, 3, 3], 7) - 1"),
    ),
    Note(
        "Two 3x3 for a 5x5 cost 9 + 9/25",
        "(9 + 9)/25 of it: 28 % are saved.",
        "arXiv:1512.00567, sec. 3.1",
        ("formulas.stack_ratio([3, 3], 5)", "1 - formulas.stack_ratio([3, 3], 5)"),
    ),
    Note(
        "A 5x5 costs 3.78 times a 3x3 with as many filters",
        "25/9 = 2.78 times.",
        "arXiv:1512.00567, sec. 3.1",
        ("formulas.convolution_macs(64, 64, 5, 35) / formulas.convolution_macs(64, 64, 3, 35)",),
    ),
    Note(
        "Inception-v3 computes with 50 million multiply-adds",
        "5 billion.",
        "arXiv:1512.00567, abstract",
        ('read("inception_v3").macs',),
    ),
    Note(
        "The 35x35 grid is reduced to 288 filters at 17x17",
        "To 768 filters at 17x17; 288 is what goes in.",
        "arXiv:1512.00567, sec. 6",
        ('outputs("inception_v3", "Mixed_5d", "Mixed_6a")',),
    ),
    Note(
        "Label smoothing is q'(k) = (1 - eps) delta + eps K",
        "eps / K: only so do the targets add up to 1.",
        "arXiv:1512.00567, sec. 7",
        (
            "round(sum(0.9 * (k == 3) + 0.1 / 1000 for k in range(1000)), 9)",
            "round(sum(0.9 * (k == 3) + 0.1 * 1000 for k in range(1000)), 9)",
        ),
    ),
    Note(
        "The second loss of label smoothing has the relative weight eps",
        "eps / (1 - eps): H(q', p) = (1 - eps) (H(q, p) + eps / (1 - eps) H(u, p)).",
        "arXiv:1512.00567, sec. 7",
        ("0.1 / (1 - 0.1)",),
    ),
    Note(
        "GoogLeNet has 5 million parameters, 12 times fewer than AlexNet",
        "6.8 million by its Table 1 and 7.0 million exactly, 8.7 times fewer; the 5 million are a round word of a later paper. "
        "22 layers is right.",
        "arXiv:1409.4842, Table 1; arXiv:1512.00567, sec. 1",
        (
            'read("googlenet", aux=False).params',
            'round(read("alexnet").params / read("googlenet", aux=False).params, 1)',
            'read("googlenet", aux=False).depth',
        ),
    ),
    Note(
        "The 1x1 reductions of Inception cut parameters by 4",
        "Not a number of the paper, and no source was found. By its own table, module 4e as it is against the naive form of Fig. 2a, "
        "whose pooling passes all channels on:",
        "arXiv:1409.4842, Table 1, Fig. 2",
        ('round(read("googlenet_naive", aux=False).module("inception_4e").params / read("googlenet").module("inception_4e").params, 1)',),
    ),
    Note(
        "AlexNet pools, then normalises",
        "Local response normalisation follows convolution and ReLU of layers 1 and 2; the pooling follows the normalisation.",
        "Krizhevsky 2012, sec. 3.5",
        ('[row.path for row in read("alexnet").rows[:8]]',),
    ),
    Note(
        "conv1 of AlexNet has 11 x 11 x 3 x 96 parameters",
        "34,848 weights, and 96 biases: 34,944.",
        "Krizhevsky 2012, sec. 3.5",
        ("formulas.convolution_params(3, 96, 11)", 'read("alexnet").module("conv1").params'),
    ),
    Note(
        "AlexNet drops out in the last fully connected layer only",
        "In the first two, fc6 and fc7.",
        "Krizhevsky 2012, sec. 4.2",
        ('[name for name, part in ca.create_model("alexnet").named_modules() if "Dropout" in type(part).__name__]',),
    ),
    Note(
        "ZFNet has 512, 1024 and 512 filters in layers 3 to 5",
        "384, 384 and 256; the others are a variant of its Table 3. The winner of 2013 is listed as Clarifai.",
        "arXiv:1311.2901, Fig. 3, Tables 2 and 3",
        ('outputs("zfnet", "conv3", "conv4", "conv5")', 'outputs("zfnet512", "conv3", "conv4", "conv5")'),
    ),
    Note(
        "LeNet-5 has inputs of 3232 and maps of 28286, 14146",
        "The signs were lost: 32x32, 6 maps of 28x28, of 14x14.",
        "LeCun 1998, sec. II-B",
        ('outputs("lenet5", "C1", "S2", "C3", "S4", "C5", "F6")',),
    ),
    Note(
        "LeNet-5 was built for ILSVRC 1998 and came first",
        "It is of the Proceedings of the IEEE 1998, for digits; ILSVRC began in 2010.",
        "LeCun 1998",
        ('models.get_entry("lenet5").paper, models.get_entry("lenet5").year, models.get_entry("lenet5").input',),
    ),
    Note(
        "ResNet trains with a weight decay of 1e-5",
        "1e-4.",
        "arXiv:1512.03385, sec. 3.4 and 4.2",
        ('recipes.get_recipe("paper", models.get_entry("resnet56_cifar")).optimizer.weight_decay',),
    ),
    Note(
        "ResNet is initialised by Xavier/2",
        "By He et al. 2015: normal with a variance of 2 / fan-in, which for a 3x3 on 512 channels is a deviation of 0.0208.",
        "arXiv:1512.03385, sec. 3.4; arXiv:1502.01852, eq. 10",
        (
            "round(math.sqrt(2 / (9 * 512)), 4)",
            'round(float(ca.create_model("resnet18").get_parameter("conv5_x.1.function.conv2.conv.weight").detach().std()), 4)',
        ),
    ),
    Note(
        "A 2-dilated 3x3 on a 1-dilated one sees 7x7",
        "So it is: 3 + 4.",
        "arXiv:1511.07122, Fig. 1",
        ("formulas.receptive_field([(3, 1, 1), (3, 1, 2)])",),
    ),
)

READ = (
    ("Inception-v3's Fig. 2 spans 386 million operations", "3.86 million, which are training steps", "arXiv:1512.00567, Fig. 2"),
    ("modules 'in Table 5' and 'Table 6'", "they are Figures 5 and 6", "arXiv:1512.00567, sec. 6"),
    (
        "on all 50,000 validation images 0.1 % top-5 and 0.2 % top-1, no direction given",
        "0.1 % and 0.2 % worse than on the 48,238 that are not blacklisted",
        "arXiv:1512.00567, sec. 10",
    ),
    (
        "'fierce' regularisation, 'formularised' convolutions",
        "aggressive regularisation, factorised convolutions",
        "arXiv:1512.00567, abstract",
    ),
    ("AlexNet was trained on two CPUs", "on two GTX 580 GPUs of 3 GB", "Krizhevsky 2012, sec. 3.2"),
    (
        "local response normalisation corrects an offset that backpropagation causes",
        "it is a competition between neighbouring channels, after lateral inhibition",
        "Krizhevsky 2012, sec. 3.3",
    ),
    (
        "AlexNet's augmentation shears, rotates and adds noise",
        "crops of 224 from 256, horizontal flips, shifts along the principal components of colour",
        "Krizhevsky 2012, sec. 4.1",
    ),
    (
        "R-CNN's box regression, as often retold",
        "right, but for what is left out: lambda = 1000, and proposals only with an overlap above 0.6",
        "arXiv:1311.2524, appendix C",
    ),
)


def page() -> str:
    names = {"ca": ca, "models": models, "recipes": recipes, "formulas": formulas, "math": math, "read": read, "outputs": outputs}
    parts = [HEAD]
    torch.manual_seed(0)
    for note in NOTES:
        lines = [f"## {note.claim}\n\n{note.right} *{note.source}*\n\n```python"]
        for expression in note.shows:
            with contextlib.nullcontext() if ".std()" in expression else torch.device("meta"):  # values, or counts alone
                lines.append(f">>> {expression}\n{eval(expression, names)!r}")  # noqa: S307 - the expressions above
        parts.append("\n".join(lines) + "\n```\n\n")
    rows = ("| it is said | it is | read |\n", "|---|---|---|\n", *(f"| {' | '.join(row)} |\n" for row in READ))
    return "".join([*parts, WORDS, *rows])


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE}")
