"""`train`: train a network, or continue a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from convatlas.cli.arguments import Json, positive
from convatlas.cli.output import display, print_json
from convatlas.errors import UsageError, printable


@dataclass
class Train:
    """Train a network on a data set by a recipe, evaluate it on the test split once, save and report."""

    model: Annotated[Positional[str], arg(metavar="MODEL", help="A network's name, or a run.json to start anew.")] = ""
    edition: Annotated[str, arg(help="The paper's network, or a named edition.")] = "paper"
    data: Annotated[str, arg(help="A published set, or folder:, manifest:, imagenet:, packed:, tar:, hf: and where (docs/data.md).")] = ""
    recipe: Annotated[str, arg(help="paper (the network's own), small, quick, finetune, or a recipe's name.")] = "quick"
    out: Annotated[Path | None, arg(metavar="FOLDER", help="The run's folder; default runs/MODEL-DATA-ID8.")] = None
    seed: Annotated[int, arg(help="All that is random follows from it.")] = 0
    epochs: Annotated[float | None, arg(metavar="N", help="Passes over the training images, instead of the recipe's.")] = None
    batch: Annotated[int | None, arg(metavar="N", help="Images a step, instead of the recipe's.")] = None
    device: Annotated[str, arg(help="auto, cpu, cuda or cuda:N.")] = "auto"
    workers: Annotated[int | None, arg(metavar="N", help="Processes that load data; any number gives the same run.")] = None
    weights: Annotated[str, arg(metavar="FILE", help="Begin from these: a run, a model.safetensors, another library's file.")] = ""
    set: Annotated[tuple[str, ...], arg(metavar="KEY.PATH=VALUE ...", help="Fields of the run, as in its run.json.")] = ()
    resume: Annotated[Path | None, arg(metavar="FOLDER", help="Continue the run in this folder, bit for bit.")] = None
    force: Annotated[bool, arg(help="Continue although environment or data differ.")] = False
    json: Json = False

    def __call__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"--workers should be 0 or more, not {self.workers}")
        progress = display(self.json)
        progress.say("convatlas: loading PyTorch")
        from convatlas.runtime.progress import is_main_process
        from convatlas.training import train

        out = self.resume or self.out
        result = train(self._run(), out, self.device, self.workers, self.force, progress)
        if self.json and is_main_process():
            print_json({"out": str(result.out), "run_id": result.run_id, "metrics": result.metrics})
        if self.json:
            return
        progress.say("next:")
        progress.say(f"  convatlas eval {result.out}")
        progress.say(f"  convatlas predict {result.out} IMAGE...")
        progress.say(f"  convatlas train --resume {result.out}    (had it been interrupted)")

    def _run(self) -> Any:
        from convatlas import models
        from convatlas.recipes import Epochs
        from convatlas.storage.records import override
        from convatlas.training import Run
        from convatlas.training.pretrained import Initial, architecture_of
        from convatlas.training.run import read_run_file

        file = self.resume / "run.json" if self.resume else Path(self.model) if self.model.endswith(".json") else None
        if file is not None:
            changes = [
                n
                for n in ("data", "epochs", "batch", "set", "seed", "weights")
                if getattr(self, n) != type(self).__dataclass_fields__[n].default
            ]
            if changes:
                raise UsageError(f"--{changes[0]} cannot change the run of {printable(file)}: start a new one by the network's name")
            try:
                return read_run_file(file.read_bytes(), str(file)).run
            except OSError as error:
                hint = "expected a run's folder" if self.resume else "expected a run.json"
                raise UsageError(f"cannot read {printable(file)} ({error.strerror}): {hint}") from None
        if not self.model:
            raise UsageError("train needs a network's name, for example: convatlas train lenet5 --data fashion-mnist")
        model = models.get_architecture(self.model, self.edition)  # a name that does not exist is said before anything else
        if not self.data:
            raise UsageError(f"train needs --data, for example: convatlas train {self.model} --data fashion-mnist")
        if self.weights:
            model = architecture_of(self.weights, self.model, self.edition)
        initial = Initial(file=self.weights) if self.weights else None
        run = Run(model=model, data=self.data, recipe=self.recipe, initial=initial, seed=self.seed)
        recipe = run.recipe
        if self.epochs is not None:
            recipe = recipe.replace(budget=Epochs(positive("--epochs", self.epochs)))
        if self.batch is not None:
            recipe = recipe.at_batch(int(positive("--batch", self.batch)))
        run = run.replace(recipe=recipe)
        for assignment in self.set:
            run = override(run, assignment)
        return run
