"""The studies: one file a paper."""

from convatlas.errors import unknown_name
from convatlas.studies.papers import activations, resnet, shattered_gradients, vgg
from convatlas.studies.study import Study

_PAPERS = (resnet, vgg, activations, shattered_gradients)
STUDIES: dict[str, Study] = {study.id: study for paper in _PAPERS for study in paper.STUDIES}


def get_study(id: str) -> Study:
    """Raises UsageError that names the nearest."""
    if id not in STUDIES:
        raise unknown_name("study", id, STUDIES)
    return STUDIES[id]
