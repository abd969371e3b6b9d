"""Networks of a user's own, named by import path: built, trained, saved, resumed, and trusted or not."""

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers.small_runs import small_run
from torch import nn

import convatlas as ca
from convatlas import edits, models, training
from convatlas.cli.main import main
from convatlas.errors import UsageError, UserError
from convatlas.models import imported
from convatlas.runtime import trust

NETS = """
import torch
from torch import nn

def build(num_classes, in_chans=3, hidden=8):
    return nn.Sequential(
        nn.Conv2d(in_chans, hidden, 3), nn.BatchNorm2d(hidden), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * hidden, num_classes),
    )

def loose(*, weights=None, progress=True, **kwargs): return build(**kwargs)
def raises(num_classes): raise ValueError("no such thing")
def no_classes(in_chans=3): return nn.Identity()
def no_module(num_classes): return num_classes
def fixed(num_classes): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
def needs(num_classes, depth): return nn.Identity()
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Writes a package `mynets` with a module `nets` of a given source."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trust, "_packages", set())
    monkeypatch.setattr(trust, "_factories", set())

    def forget() -> None:
        imported._entry.cache_clear()
        for name in ("mynets", "mynets.nets"):
            sys.modules.pop(name, None)

    def write(source: str) -> Path:
        forget()
        folder = tmp_path / "mynets"
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").write_text("")
        (folder / "nets.py").write_text(textwrap.dedent(source))
        return folder / "nets.py"

    write(NETS)
    yield write
    forget()


@pytest.mark.usefixtures("package")
def test_a_factory_is_called_with_the_arguments_that_it_takes() -> None:
    model = ca.create_model("mynets.nets:build", num_classes=5, in_chans=1, hidden=4)
    assert model(torch.randn(2, 1, 20, 20)).shape == (2, 5)
    assert model.get_submodule(model.classifier).weight.shape == (5, 64)
    assert model.name == "mynets.nets:build"
    edits.apply(model, [edits.SwapActivation(to="tanh")])
    assert type(model.get_submodule("module.2")) is nn.Tanh
    assert ca.create_model("mynets.nets:loose", num_classes=7)(torch.randn(2, 3, 20, 20)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mynets.nets:raises", "mynets.nets:raises raised ValueError: no such thing"),
        ("mynets.nets:no_classes", "mynets.nets:no_classes takes no num_classes"),
        ("mynets.nets:no_module", "mynets.nets:no_module returned a int: expected an nn.Module"),
        ("mynets.nets:needs", "mynets.nets:needs needs the argument depth: give it a default"),
        ("mynets.nets:biuld", "unknown function of mynets.nets 'biuld': the nearest is 'build'"),
        ("mynets.other:build", "there is no module mynets.other for the network mynets.other:build"),
        ("mynets.nets:fixed", "mynets.nets:fixed gives (1, 4) for one image: expected logits (1, 10)"),
    ],
)
@pytest.mark.usefixtures("package")
def test_a_factory_that_cannot_be_one_is_named_in_one_sentence(
    name: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["train", name, "--data", "digits", "--out", str(tmp_path / "run")]
    assert main([*words, "--set", "model.arguments.in_chans=3"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_it_is_trained_saved_and_resumed_unless_its_source_changes(
    package: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    recipe = small_run(epochs=1).recipe
    run = ca.Run(model="mynets.nets:build", data="digits", recipe=recipe, precision="fp32")
    ca.train(run, out=out)
    assert ca.load(out).metadata.network.arguments["image_size"] == (8, 8)  # the data's own
    capsys.readouterr()
    assert main(["show", "mynets.nets:build", "--edit", "SwapNorm(to=layer)"]) == 0
    assert capsys.readouterr().out.startswith("mynets.nets:build, edition paper with SwapNorm(to=layer)")

    package(NETS + "# another line\n")
    trust._factories.clear()
    with pytest.raises(UsageError, match=r"--trust mynets, or ca\.load\(\.\.\., trust='mynets'\)"):
        ca.load(out)
    assert "mynets" not in sys.modules
    assert main(["eval", str(out)]) == 2
    assert "is imported only if you trust it" in capsys.readouterr().err
    assert main(["eval", str(out), "--json", "--trust", "mynets"]) == 0
    assert ca.load(out, trust="mynets").metadata.classes[3] == "3"

    (out / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"the source of mynets\.nets:build has changed"):
        training.resume(out)
    training.resume(out, force=True)
    assert (out / "model.safetensors").exists()


def test_a_saved_network_that_computes_something_else_is_refused(
    package: Callable[[str], Path], tmp_path: Path
) -> None:
    network = ca.create_model("mynets.nets:build", num_classes=2)
    classifier = ca.Classifier.from_module(network, ["cat", "dog"], 16, mean=0.5, std=0.25)
    file = classifier.save(tmp_path / "m.safetensors")
    assert ca.load(file).metadata.network == network.architecture
    package(NETS.replace("nn.ReLU()", "nn.Tanh()"))  # of the same weights
    with pytest.raises(UserError, match="that computed something else than the one that is built now"):
        ca.load(file)


@pytest.mark.usefixtures("package")
def test_a_trusted_package_is_a_top_level_name() -> None:
    with pytest.raises(UsageError, match="given by its top-level name, as mypackage"):
        trust.trust_package("mynets.nets")
    with pytest.raises(UsageError, match="is imported only if you trust it"):
        models.get_entry("mynets.nets:build")
    assert "mynets" not in sys.modules
    trust.trust_package("mynet")
    with pytest.raises(UsageError, match="--trust mynets"):
        models.get_entry("mynets.nets:build")
    trust.trust_package("mynets")
    assert models.get_entry("mynets.nets:build").input == (3, 224, 224)
    with pytest.raises(UsageError, match="unknown edition of mynets"):
        models.get_entry("mynets.nets:build", "torchvision")
