"""Every number of a run has a range: nonsense ends in one sentence and exit code 2, before anything runs."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.small_runs import small_run
from msgspec import inspect

import convatlas as ca
from convatlas import recipes
from convatlas.cli.main import main
from convatlas.errors import UsageError
from convatlas.training.bounds import RANGES, check_numbers, range_of
from convatlas.training.run import RunFile, read_run_file, serialize_run_file

NONSENSE = (-1, 0, 2, 1e30, -1e30, 1e300, 10**30, -(10**30), math.inf, -math.inf, math.nan)


def numeric_fields(type_: inspect.Type, path: str = "") -> Iterator[str]:
    """The paths of all numbers that a record can hold."""
    match type_:
        case inspect.IntType() | inspect.FloatType():
            yield path
        case inspect.UnionType():
            for member in type_.types:
                yield from numeric_fields(member, path)
        case inspect.StructType():
            for field in type_.fields:
                yield from numeric_fields(field.type, f"{path}.{field.encode_name}".lstrip("."))
        case inspect.VarTupleType():
            yield from numeric_fields(type_.item_type, f"{path}.0")
        case inspect.TupleType():
            for member in type_.item_types:
                yield from numeric_fields(member, f"{path}.0")
        case inspect.DictType():
            yield from numeric_fields(type_.value_type, f"{path}.name")


FIELDS = sorted(set(numeric_fields(inspect.type_info(ca.Run))))


def document_with(path: str, value: Any) -> dict[str, Any]:
    """A document that holds nothing but a number at this path."""
    for name in reversed(path.split(".")):
        value = [value] if name == "0" else {name: value}
    document: dict[str, Any] = value
    return document


@pytest.mark.parametrize("path", FIELDS)
def test_every_number_of_a_run_has_a_range_outside_of_which_it_is_named(path: str) -> None:
    low, high = range_of(path)
    assert -math.inf < low < high < math.inf
    for inside in (low, high):
        check_numbers(document_with(path, inside))
    for value in NONSENSE:
        if low <= value <= high:
            continue
        with pytest.raises(
            UsageError, match=rf"^{path} should be .*, not .*: give another with --set {path}=N"
        ):
            check_numbers(document_with(path, value))


def test_every_range_belongs_to_a_field() -> None:
    fields = {".".join(name for name in path.split(".") if name not in ("0", "name")) for path in FIELDS}
    for key in RANGES.keys() - {"image_size"}:  # an argument of networks
        assert any(field == key or field.endswith(f".{key}") for field in fields), key


def test_every_recipe_is_inside_the_ranges() -> None:
    for recipe in recipes.RECIPES.values():
        check_numbers(recipe, "recipe")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--seed", str(10**30)],
            "--seed should be 0 to 9,223,372,036,854,775,807, not 10000000... (31 digits)",
        ),
        (["--seed", "-1"], "--seed should be 0 to"),
        *(
            (["--epochs", number], f"--epochs should be more than 0 and at most 1,000,000,000, not {number}")
            for number in ("inf", "nan", "1e+99", "0", "-1")
        ),
        (["--batch", "0"], "--batch should be 1 to 1,000,000, not 0"),
        (["--batch", str(10**9)], "--batch should be 1 to 1,000,000, not 1000000000"),
        (["--workers", "100000"], "--workers should be 0 to 1,024, not 100,000"),
        (["--set", "recipe.optimizer.lr=-1"], "recipe.optimizer.lr should be 0 to 1e+30, not -1"),
        (["--set", "recipe.optimizer.lr=nan"], "--set recipe.optimizer.lr=nan: Expected `float`, got `str`"),
        (["--set", "recipe.optimizer.lr=1e999"], "recipe.optimizer.lr"),
        (["--set", "recipe.optimizer.momentum=2"], "recipe.optimizer.momentum should be 0 to 1, not 2"),
        (["--set", "recipe.optimizer.momentum=0"], "nesterov needs a momentum above 0"),
        (
            ["--set", "model.arguments.image_size=[100000,100000]"],
            "model.arguments.image_size.0 should be 1 to",
        ),
        (["--set", "model.arguments.width=0"], "width of lenet5 should be greater than 0"),
        (["--set", "model.arguments.width=1e9"], "width of lenet5 should be at most 64"),
        (["--set", "model.arguments.num_classes=0"], "num_classes"),
        (["--set", "model.arguments.num_classes=1000000000"], "num_classes"),
    ],
    ids=lambda value: "=".join(value) if isinstance(value, list) else "",
)
def test_nonsense_on_the_command_line_is_exit_code_2_and_one_sentence(
    tmp_path: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", "lenet5", "--data", "digits", "--out", str(out), *arguments]) == 2
    error = capfd.readouterr().err
    assert error.startswith("convatlas: ")
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()


def test_a_run_file_with_nonsense_is_named_with_its_field() -> None:
    document = json.loads(serialize_run_file(RunFile(run=small_run())))
    del document["id"], document["sha256"]
    for seed in (-1, 10**30):
        document["run"]["seed"] = seed
        with pytest.raises(UsageError, match=r"^other\.json: .*seed"):
            read_run_file(msgspec.json.format(json.dumps(document).encode()), "other.json")
