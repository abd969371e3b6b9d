"""`study show`: what a study compares, what it claims, and what is smaller than in the paper."""

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional

from convatlas.cli.arguments import Json, arg
from convatlas.cli.output import paragraph, print_json, print_table


@dataclass
class StudyShow:
    """Show a study's arms, its claims and its scales, before anything runs."""

    id: Annotated[Positional[str], arg(metavar="ID", help="A study, such as resnet.degradation.")]
    json: Json = False

    def __call__(self) -> None:
        from convatlas.studies.papers import get_study
        from convatlas.studies.report import describe_arm

        study = get_study(self.id)
        arms: list[dict[str, Any]] = [
            {"name": name, "run": describe_arm(arm), "paper": dict(arm.printed)}
            for name, arm in study.arms.items()
        ]
        claims = [{"claim": str(claim), "source": claim.source} for claim in study.claims]
        if self.json:
            scales = {
                name: {"data": scale.data, "recipe": scale.recipe, "reduced": dict(scale.reduced)}
                for name, scale in study.scales.items()
            }
            document = {"id": study.id, "source": study.source, "question": study.question}
            print_json(document | {"arms": arms, "claims": claims, "scales": scales})
            return
        print(f"{study.id}  {study.question}")
        print(study.source)
        print()
        cells = [(arm["name"], arm["run"], _describe_values(arm["paper"])) for arm in arms]
        print_table(("arm", "run", "printed"), cells)
        print()
        print_table(("claim", "the paper"), [(claim["claim"], claim["source"]) for claim in claims])
        print()
        for name, scale in study.scales.items():
            reductions = "; ".join(f"{key}: {text}" for key, text in scale.reduced.items())
            paragraph(f"{name}: {scale.data}, recipe {scale.recipe}. {reductions}", 2)
        print(f"next: convatlas study run {study.id} --scale small --seeds 3")


def _describe_values(printed: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in printed.items()) or "-"
