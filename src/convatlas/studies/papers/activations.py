"""Activations compared in one network. arXiv:1512.03385's, with the activations of several papers."""

from typing import Any

from convatlas.studies.claims import Lower
from convatlas.studies.papers.scales import CIFAR_SCALES
from convatlas.studies.study import Arm, Study


def _swapped(to: str, **changes: Any) -> Arm:
    return Arm(
        model="resnet20_cifar", changes={"model.edits": [{"type": "SwapActivation", "to": to}], **changes}
    )


COMPARED = Study(
    id="activations.compared",
    source="AlexNet (Krizhevsky and others 2012), Fig. 1; arXiv:1502.01852; arXiv:1511.07289",
    question="Which activation lowers the training error of a residual network fastest?",
    metric="training_error",
    arms={
        "ReLU": Arm(model="resnet20_cifar"),
        "sigmoid": _swapped("sigmoid"),
        "tanh": _swapped("tanh"),
        "leaky ReLU": _swapped("leaky_relu"),
        "PReLU": _swapped("prelu"),
        "ELU": _swapped("elu"),
        "ReLU6": _swapped("relu6"),
        "hard-swish": _swapped("hard_swish"),
    },
    claims=(
        Lower(a="ReLU", b="tanh", metric="training_error", source="AlexNet, Fig. 1: six times faster"),
        Lower(a="ReLU", b="sigmoid", metric="training_error", source="a saturating activation, as tanh"),
        Lower(a="PReLU", b="ReLU", metric="training_error", source="arXiv:1502.01852, sec. 2.1"),
        Lower(a="ELU", b="ReLU", metric="training_error", source="arXiv:1511.07289, Fig. 4"),
    ),
    scales={
        name: scale.replace(reduced={**scale.reduced, "network": "ResNet-20, with batch norm, for all"})
        for name, scale in CIFAR_SCALES.items()
    },
)

STUDIES = (COMPARED,)
