"""The studies of arXiv:1512.03385 (Deep Residual Learning for Image Recognition)."""

from convatlas.studies.claims import Lower
from convatlas.studies.study import Arm, Scale, Study

_PROBES = {"probes": [{"type": "TrainingScores", "images": 2000}]}
_QUARTER = {"model.arguments.width": 0.25, **_PROBES}

DEGRADATION = Study(
    id="resnet.degradation",
    source="arXiv:1512.03385, Fig. 1 and 6, Table 6",
    question="Does depth hurt plain networks, and help residual ones?",
    metric="training_error",
    arms={
        "plain-20": Arm(model="plain20_cifar"),
        "plain-32": Arm(model="plain32_cifar"),
        "plain-56": Arm(model="plain56_cifar"),
        "residual-20": Arm(model="resnet20_cifar", printed={"test_error": 8.75}),
        "residual-32": Arm(model="resnet32_cifar", printed={"test_error": 7.51}),
        "residual-56": Arm(model="resnet56_cifar", printed={"test_error": 6.97}),
    },
    claims=(
        Lower(a="plain-20", b="plain-56", metric="training_error", source="Fig. 1: higher training error"),
        Lower(a="residual-56", b="residual-20", metric="training_error", source="Fig. 6, middle"),
        Lower(a="plain-20", b="plain-56", metric="test_error", source="Fig. 1, right"),
        Lower(a="residual-56", b="residual-20", metric="test_error", source="Table 6: 6.97 and 8.75"),
    ),
    scales={
        "smoke": Scale(
            data="digits",
            recipe="quick",
            changes={**_QUARTER, "recipe.budget.count": 1, "recipe.budget.min_steps": 0},
            reduced={"everything": "one epoch of digits: only that it runs"},
        ),
        "small": Scale(
            data="fashion-mnist",
            recipe="quick",
            changes={**_QUARTER, "recipe.budget.count": 1},
            reduced={
                "data": "Fashion-MNIST in place of CIFAR-10",
                "width": "a quarter of the channels",
                "schedule": "one epoch, one cycle, in place of 64,000 iterations",
                "depth": "20, 32 and 56 layers, without 44 and 110",
            },
        ),
    },
)

STUDIES = (DEGRADATION,)
