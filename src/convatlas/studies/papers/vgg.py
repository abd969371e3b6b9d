"""The study of arXiv:1409.1556 (Very Deep Convolutional Networks for Large-Scale Image Recognition)."""

from convatlas.studies.claims import Equal, Lower
from convatlas.studies.papers.scales import fashion, smoke
from convatlas.studies.study import Arm, Study

DEPTH = Study(
    id="vgg.depth",
    source="arXiv:1409.1556, Table 3",
    question="Does depth alone lower the error, and do normalisation of responses and 1x1 convolutions help?",
    metric="test_error",
    arms={
        "A, 11 layers": Arm(model="vgg11", printed={"test_error": 29.6}),
        "A-LRN": Arm(model="vgg11_lrn", printed={"test_error": 29.7}),
        "B, 13 layers": Arm(model="vgg13", printed={"test_error": 28.7}),
        "C, 16 layers, 1x1": Arm(model="vgg16_1x1", printed={"test_error": 28.1}),
        "D, 16 layers": Arm(model="vgg16", printed={"test_error": 27.0}),
        "E, 19 layers": Arm(model="vgg19", printed={"test_error": 27.3}),
        "A with batch norm": Arm(model="vgg11_bn"),
        "E with batch norm": Arm(model="vgg19_bn"),
    },
    claims=(
        Equal(a="A-LRN", b="A, 11 layers", within=1.0, metric="test_error", source="29.7 and 29.6"),
        Lower(a="B, 13 layers", b="A, 11 layers", metric="test_error", source="28.7 and 29.6"),
        Lower(a="D, 16 layers", b="B, 13 layers", metric="test_error", source="27.0 and 28.7"),
        Lower(a="D, 16 layers", b="C, 16 layers, 1x1", metric="test_error", source="27.0 and 28.1"),
        Equal(a="E, 19 layers", b="D, 16 layers", within=1.0, metric="test_error", source="27.3 and 27.0"),
    ),
    scales={
        "smoke": smoke("small", {"model.arguments.width": 0.05}),
        "small": fashion(
            "small",
            {"model.arguments.width": 0.125, "recipe.budget.count": 1},
            {
                "width": "an eighth of the channels",
                "image": "32x32 in place of 224x224: the last stage has 2x2 positions",
                "schedule": "one epoch, one cycle, in place of 74 epochs",
            },
        ),
    },
)

STUDIES = (DEPTH,)
