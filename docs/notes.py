"""Frequent errors about these networks in circulating notes, each with the expression that corrects it. `make
docs` calls this."""

import contextlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch

import convatlas as ca
from convatlas import models, recipes
from convatlas.analysis import Report, formulas

PAGE = Path(__file__).parent / "generated" / "notes.md"
HEAD = """# What circulating notes get wrong

Lecture notes, blog posts and translations repeat errors about these papers. Each is listed here with what
the paper prints, where it prints it, and an expression that shows it; the results were computed when this
page was made (`make docs`). Every expression runs after these lines:

```python
import math
import convatlas as ca
from convatlas import models, recipes
from convatlas.analysis import formulas


def analyze(name, **arguments):
    return ca.analyze(ca.create_model(name, **arguments), models.get_entry(name).input)


def output_sizes(name, *paths):
    report = analyze(name)
    return ["x".join(map(str, report.module(path).output_shape[1:])) for path in paths]
```

"""
WORDING = """## Errors of wording

There is nothing to compute; the last column gives the place in the paper.

"""


def analyze(name: str, **arguments: Any) -> Report:
    with torch.device("meta"):
        return ca.analyze(ca.create_model(name, **arguments), models.get_entry(name).input)


def output_sizes(name: str, *paths: str) -> list[str]:
    report = analyze(name)
    return ["x".join(map(str, report.module(path).output_shape[1:])) for path in paths]


class Note(NamedTuple):
    claim: str
    correction: str
    source: str
    expressions: tuple[str, ...]


NOTES = (
    Note(
        "VGG-16 keeps 93 MB of activations an image",
        "15.2 million values, 61 MB in fp32; 93 MB is the sum of a well-known table, added up wrongly.",
        "arXiv:1409.1556, Table 1, D",
        ('analyze("vgg16").activation_bytes / 1e6', 'analyze("vgg16").activation_bytes // 4'),
    ),
    Note(
        "VGG takes 140M of memory",
        "About 138 million parameters, which are 553 MB.",
        "arXiv:1409.1556, Table 2",
        ('analyze("vgg16").params', 'analyze("vgg16").size_bytes["fp32"] / 1e6'),
    ),
    Note(
        "VGG has two structures, VGG-16 and VGG-19",
        "Six: A, A-LRN, B, C, D, E (batch norm came later and is not in the paper).",
        "arXiv:1409.1556, Table 1",
        ('[name for name in ca.list_models("vgg*") if "bn" not in name]',),
    ),
    Note(
        "Three 3x3 layers have 27 C^2 weights, one 7x7 has 49 C^2",
        "Correct: 81 % more.",
        "arXiv:1409.1556, sec. 2.3",
        (
            "3 * formulas.convolution_params(1, 1, 3), formulas.convolution_params(1, 1, 7)",
            "1 / formulas.stack_ratio([3, 3, 3], 7) - 1",
        ),
    ),
    Note(
        "Two 3x3 for a 5x5 cost 9 + 9/25",
        "(9 + 9)/25 of it, which saves 28 %.",
        "arXiv:1512.00567, sec. 3.1",
        ("formulas.stack_ratio([3, 3], 5)", "1 - formulas.stack_ratio([3, 3], 5)"),
    ),
    Note(
        "A 5x5 costs 3.78 times as much as a 3x3 with the same number of filters",
        "25/9 = 2.78 times.",
        "arXiv:1512.00567, sec. 3.1",
        ("formulas.convolution_macs(64, 64, 5, 35) / formulas.convolution_macs(64, 64, 3, 35)",),
    ),
    Note(
        "Inception-v3 computes with 50 million multiply-adds",
        "5 billion.",
        "arXiv:1512.00567, abstract",
        ('analyze("inception_v3").macs',),
    ),
    Note(
        "The 35x35 grid is reduced to 288 filters at 17x17",
        "To 768 filters at 17x17; 288 filters are the input.",
        "arXiv:1512.00567, sec. 6",
        ('output_sizes("inception_v3", "Mixed_5d", "Mixed_6a")',),
    ),
    Note(
        "Label smoothing is q'(k) = (1 - eps) delta + eps K",
        "eps / K: only then do the targets add up to 1.",
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
        "6.8 million by its Table 1 and 7.0 million exactly, 8.7 times fewer; the 5 million are a rounded "
        "figure of a later paper. 22 layers is correct.",
        "arXiv:1409.4842, Table 1; arXiv:1512.00567, sec. 1",
        (
            'analyze("googlenet", aux=False).params',
            'round(analyze("alexnet").params / analyze("googlenet", aux=False).params, 1)',
            'analyze("googlenet", aux=False).depth',
        ),
    ),
    Note(
        "The 1x1 reductions of Inception cut parameters by 4",
        "Not a number of the paper, and no source was found. By its own table, module 4e against the naive "
        "form of Fig. 2a, whose pooling passes all channels on:",
        "arXiv:1409.4842, Table 1, Fig. 2",
        (
            'round(analyze("googlenet_naive", aux=False).module("inception_4e").params'
            ' / analyze("googlenet").module("inception_4e").params, 1)',
        ),
    ),
    Note(
        "AlexNet pools, then normalises",
        "Local response normalisation follows convolution and ReLU of layers 1 and 2; pooling follows "
        "normalisation.",
        "Krizhevsky 2012, sec. 3.5",
        ('[row.path for row in analyze("alexnet").rows[:8]]',),
    ),
    Note(
        "conv1 of AlexNet has 11 x 11 x 3 x 96 parameters",
        "34,848 weights and 96 biases: 34,944.",
        "Krizhevsky 2012, sec. 3.5",
        ("formulas.convolution_params(3, 96, 11)", 'analyze("alexnet").module("conv1").params'),
    ),
    Note(
        "AlexNet has dropout in the last fully connected layer only",
        "In the first two, fc6 and fc7.",
        "Krizhevsky 2012, sec. 4.2",
        (
            '[name for name, module in ca.create_model("alexnet").named_modules()'
            ' if "Dropout" in type(module).__name__]',
        ),
    ),
    Note(
        "ZFNet has 512, 1024 and 512 filters in layers 3 to 5",
        "384, 384 and 256; the other numbers are a variant in its Table 3. The winner of 2013 is listed as "
        "Clarifai.",
        "arXiv:1311.2901, Fig. 3, Tables 2 and 3",
        (
            'output_sizes("zfnet", "conv3", "conv4", "conv5")',
            'output_sizes("zfnet512", "conv3", "conv4", "conv5")',
        ),
    ),
    Note(
        "LeNet-5 has inputs of 3232 and maps of 28286, 14146",
        "The multiplication signs were lost: 32x32, and 6 maps of 28x28 and of 14x14.",
        "LeCun 1998, sec. II-B",
        ('output_sizes("lenet5", "C1", "S2", "C3", "S4", "C5", "F6")',),
    ),
    Note(
        "LeNet-5 was built for ILSVRC 1998 and came first",
        "It was published in the Proceedings of the IEEE in 1998, for digits; ILSVRC began in 2010.",
        "LeCun 1998",
        (
            'models.get_entry("lenet5").paper, models.get_entry("lenet5").year,'
            ' models.get_entry("lenet5").input',
        ),
    ),
    Note(
        "ResNet trains with a weight decay of 1e-5",
        "1e-4.",
        "arXiv:1512.03385, sec. 3.4 and 4.2",
        ('recipes.get_recipe("paper", models.get_entry("resnet56_cifar")).optimizer.weight_decay',),
    ),
    Note(
        "ResNet is initialised by Xavier/2",
        "By He et al. 2015: normal with a variance of 2 / fan-in, which for a 3x3 on 512 channels is a "
        "standard deviation of 0.0208.",
        "arXiv:1512.03385, sec. 3.4; arXiv:1502.01852, eq. 10",
        (
            "round(math.sqrt(2 / (9 * 512)), 4)",
            'round(float(ca.create_model("resnet18").get_parameter("conv5_x.1.function.conv2.conv.weight")'
            ".detach().std()), 4)",
        ),
    ),
    Note(
        "A 2-dilated 3x3 on a 1-dilated 3x3 has a receptive field of 7x7",
        "Correct: 3 + 4.",
        "arXiv:1511.07122, Fig. 1",
        ("formulas.receptive_field([(3, 1, 1), (3, 1, 2)])",),
    ),
)

WORDING_ERRORS = (
    (
        "Inception-v3's Fig. 2 spans 386 million operations",
        "3.86 million, which are training steps",
        "arXiv:1512.00567, Fig. 2",
    ),
    ("modules 'in Table 5' and 'Table 6'", "they are Figures 5 and 6", "arXiv:1512.00567, sec. 6"),
    (
        "on all 50,000 validation images 0.1 % top-5 and 0.2 % top-1, without a direction",
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
        "it is a competition between neighbouring channels, modelled on lateral inhibition",
        "Krizhevsky 2012, sec. 3.3",
    ),
    (
        "AlexNet's augmentation shears, rotates and adds noise",
        "crops of 224 from 256, horizontal flips, shifts along the principal components of colour",
        "Krizhevsky 2012, sec. 4.1",
    ),
    (
        "R-CNN's box regression, as often described",
        "correct, but incomplete: lambda = 1000, and only proposals with an overlap above 0.6",
        "arXiv:1311.2524, appendix C",
    ),
)


def page() -> str:
    names = {
        "ca": ca,
        "models": models,
        "recipes": recipes,
        "formulas": formulas,
        "math": math,
        "analyze": analyze,
        "output_sizes": output_sizes,
    }
    torch.manual_seed(0)
    sections = [HEAD]
    for note in NOTES:
        lines = [f"## {note.claim}\n\n{note.correction} *{note.source}*\n\n```python"]
        for expression in note.expressions:
            # counts need no values: on the meta device, unless a standard deviation is computed
            with contextlib.nullcontext() if ".std()" in expression else torch.device("meta"):
                result = eval(expression, names)  # noqa: S307 - the expressions above
            lines.append(f">>> {expression}\n{result!r}")
        sections.append("\n".join(lines) + "\n```\n\n")
    rows = (
        "| claim | correction | source |\n",
        "|---|---|---|\n",
        *(f"| {' | '.join(row)} |\n" for row in WORDING_ERRORS),
    )
    return "".join([*sections, WORDING, *rows])


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE}")
