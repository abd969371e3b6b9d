"""The studies: one file a paper."""

from convatlas.errors import unknown_name
from convatlas.studies.papers import resnet, shattered_gradients
from convatlas.studies.study import Study

STUDIES: dict[str, Study] = {
    study.id: study for paper in (resnet, shattered_gradients) for study in paper.STUDIES
}


def get_study(id: str) -> Study:
    """Raises UsageError that names the nearest."""
    if id not in STUDIES:
        raise unknown_name("study", id, STUDIES)
    return STUDIES[id]
