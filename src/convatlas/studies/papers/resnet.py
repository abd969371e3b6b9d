"""The studies of arXiv:1512.03385 (Deep Residual Learning for Image Recognition)."""

from convatlas.studies.claims import Lower
from convatlas.studies.papers.scales import CIFAR_SCALES
from convatlas.studies.study import Arm, Study

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
        name: scale.replace(reduced={**scale.reduced, "depth": "20, 32 and 56 layers, without 44 and 110"})
        for name, scale in CIFAR_SCALES.items()
    },
)

SHORTCUTS = Study(
    id="resnet.shortcuts",
    source="arXiv:1512.03385, Table 3",
    question="Do projections on the shortcuts help, or is any shortcut enough?",
    metric="test_error",
    arms={
        "plain": Arm(model="plain56_cifar"),
        "A, zeros": Arm(model="resnet56_cifar", changes={"model.arguments.shortcut": "A"}),
        "B, some projections": Arm(model="resnet56_cifar", changes={"model.arguments.shortcut": "B"}),
        "C, projections alone": Arm(model="resnet56_cifar", changes={"model.arguments.shortcut": "C"}),
    },
    claims=(
        Lower(a="A, zeros", b="plain", metric="test_error", source="25.03 and 28.54, ImageNet, 34 layers"),
        Lower(a="B, some projections", b="plain", metric="test_error", source="24.52 and 28.54"),
        Lower(a="C, projections alone", b="plain", metric="test_error", source="24.19 and 28.54"),
        Lower(a="B, some projections", b="A, zeros", metric="test_error", source="24.52 and 25.03"),
        Lower(a="C, projections alone", b="B, some projections", metric="test_error", source="24.19, 24.52"),
    ),
    scales={
        name: scale.replace(
            reduced={**scale.reduced, "network": "the 56 layers for CIFAR-10 in place of the 34 for ImageNet"}
        )
        for name, scale in CIFAR_SCALES.items()
    },
)

STUDIES = (DEGRADATION, SHORTCUTS)
