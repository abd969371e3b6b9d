"""The commands by name."""

from typing import Any

from convatlas.cli.bench import Bench
from convatlas.cli.compare import Compare
from convatlas.cli.data import Data
from convatlas.cli.doctor import Doctor
from convatlas.cli.eval import Eval
from convatlas.cli.export import Export
from convatlas.cli.import_ import Import
from convatlas.cli.models import Models
from convatlas.cli.plan import Plan
from convatlas.cli.predict import Predict
from convatlas.cli.show import Show
from convatlas.cli.study import Study
from convatlas.cli.train import Train
from convatlas.cli.visualize import Visualize

COMMANDS: dict[str, Any] = {
    "models": Models,
    "show": Show,
    "train": Train,
    "eval": Eval,
    "predict": Predict,
    "visualize": Visualize,
    "import": Import,
    "export": Export,
    "compare": Compare,
    "plan": Plan,
    "bench": Bench,
    "data": Data,
    "study": Study,
    "doctor": Doctor,
}
