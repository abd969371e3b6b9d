"""`train`: train a network, or continue a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional

from convatlas.cli.arguments import Edits, Json, arg, check_workers
from convatlas.cli.output import display, print_json
from convatlas.errors import UsageError, printable

if TYPE_CHECKING:
    from convatlas.training.options import RunOptions

# Options that describe a new run, and so cannot be given with the file of one
RUN_OPTIONS = ("data", "epochs", "batch", "set", "seed", "weights", "edit")
# The numbers among the options, and the field of the run that each sets
FIELD_OF_OPTION = {"epochs": "recipe.budget.count", "batch": "recipe.batch", "seed": "seed"}


@dataclass
class Train:
    """Train a network on a data set by a recipe, evaluate it on the test split once, save and report."""

    model: Annotated[
        Positional[str], arg(metavar="MODEL", help="A network's name, or a run.json to start as a new run.")
    ] = ""
    edition: Annotated[str, arg(help="The paper's network, or a named edition.")] = "paper"
    edit: Edits = ()
    data: Annotated[
        str,
        arg(
            help="A built-in set, or folder:, manifest:, imagenet:, packed:, tar: or hf: and a path: "
            "docs/data.md. With --resume: where the same data are now."
        ),
    ] = ""
    recipe: Annotated[
        str, arg(help="paper (the network's own), small, quick, finetune, or a recipe's name.")
    ] = "quick"
    out: Annotated[
        Path | None, arg(metavar="FOLDER", help="The run's folder; default runs/MODEL-DATA-ID8.")
    ] = None
    seed: Annotated[int, arg(help="Everything random follows from it.")] = 0
    epochs: Annotated[
        float | None, arg(metavar="N", help="Passes over the training images, instead of the recipe's.")
    ] = None
    batch: Annotated[int | None, arg(metavar="N", help="Images a step, instead of the recipe's.")] = None
    device: Annotated[str, arg(help="auto, cpu, cuda or cuda:N.")] = "auto"
    workers: Annotated[
        int | None, arg(metavar="N", help="Processes that load data; the run is the same for any number.")
    ] = None
    weights: Annotated[
        str,
        arg(metavar="FILE", help="Start from these: a run, a model.safetensors, another library's file."),
    ] = ""
    set: Annotated[
        tuple[str, ...], arg(metavar="KEY.PATH=VALUE ...", help="Fields of the run, as in its run.json.")
    ] = ()
    resume: Annotated[
        Path | None, arg(metavar="FOLDER", help="Continue the run in this folder, bit for bit.")
    ] = None
    force: Annotated[bool, arg(help="Continue although environment or data differ.")] = False
    log: Annotated[
        Literal["tensorboard"] | None,
        arg(metavar="tensorboard", help="Write the figures of the log there too."),
    ] = None
    json: Json = False

    def __call__(self) -> None:
        check_workers(self.workers)
        progress = display(self.json)
        progress.say("convatlas: loading PyTorch")
        from convatlas import training
        from convatlas.runtime.progress import is_main_process

        if self.resume:
            self._refuse_run_options(self.resume, but="data")
            result = training.resume(
                self.resume, self.device, self.workers, self.force, progress, self.log, self.data or None
            )
        else:
            run, weights = self._options()
            result = training.train(
                run, self.out, self.device, self.workers, self.force, progress, weights, self.log
            )
        if self.json:
            if is_main_process():
                print_json({"out": str(result.out), "run_id": result.run_id, "metrics": result.metrics})
            return
        progress.say("next:")
        progress.say(f"  convatlas eval {result.out}")
        progress.say(f"  convatlas predict {result.out} IMAGE...")

    def _options(self) -> "RunOptions":
        from convatlas.training.bounds import check_option
        from convatlas.training.options import RunOptions, open_run_file, run_from_options

        if self.model.endswith(".json"):
            self._refuse_run_options(Path(self.model))
            return RunOptions(open_run_file(Path(self.model)).run)
        if not self.model:
            raise UsageError(
                "train needs a network's name, for example: convatlas train lenet5 --data fashion-mnist"
            )
        for option, field in FIELD_OF_OPTION.items():
            check_option(f"--{option}", getattr(self, option), field)
        return run_from_options(
            model=self.model,
            data=self.data,
            edition=self.edition,
            edits=self.edit,
            recipe=self.recipe,
            seed=self.seed,
            epochs=self.epochs,
            batch=self.batch,
            weights=self.weights,
            overrides=self.set,
        )

    def _refuse_run_options(self, file: Path, but: str = "") -> None:
        """Raises UsageError for an option that would change the run of a file."""
        for name in RUN_OPTIONS:
            if name != but and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise UsageError(
                    f"--{name} cannot change the run of {printable(file)}: start a new one by the network's "
                    "name"
                )
