"""The house's own rules, read off the source."""

import ast
import re
import runpy
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src" / "convatlas").rglob("*.py"))

# Arrows point to the right only; rooms of one tier do not import each other (design: "The house").
TIERS = (
    ("__main__",),
    ("cli",),
    ("studies",),
    ("benchmark",),
    ("training", "export"),
    ("evaluation", "inference", "interop", "visualization"),
    ("segmentation", "boxes"),
    ("recipes", "classifier"),
    ("data", "models"),
    ("layers", "optim", "analysis"),
    ("runtime", "storage"),
    ("errors", "formatting"),
)
TIER = {room: number for number, rooms in enumerate(TIERS) for room in rooms}


def room(source: Path) -> str:
    return source.relative_to(ROOT / "src" / "convatlas").parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> list[str]:
    """Rooms of convatlas that a file imports, anywhere in it."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("convatlas"):
            rest = node.module.split(".")[1:]
            found += [rest[0]] if rest else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("convatlas.")]
    return [name for name in found if name != "__version__"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_a_room_imports_only_rooms_to_its_right(source: Path) -> None:
    here = room(source)
    if here == "__init__":
        return
    for target in imports(ast.parse(source.read_text())):
        assert target == here or TIER[target] > TIER[here], f"{here} imports {target}"


def test_the_rule_would_notice_an_arrow_that_points_left() -> None:
    assert imports(ast.parse("from convatlas.training import Run\nimport convatlas.cli.main\nfrom convatlas import models")) == [
        "training",
        "cli",
        "models",
    ]
    assert TIER["training"] < TIER["models"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_nothing_unpickles_or_runs_text_or_a_shell(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            if names == ["UnpicklingError", "pickle"]:
                continue  # the name of an error, for what torch refuses
            assert not {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"} & {name.split(".")[0] for name in names}
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in ("eval", "exec", "os.system", "torch.jit.load", "__import__"), f"{source}:{node.lineno}"
            if name == "torch.load":  # other libraries' weights alone, and of them nothing but tensors
                assert room(source) == "interop"
                assert ast.unparse(next(k.value for k in node.keywords if k.arg == "weights_only")) == "True"
            assert not any(k.arg == "shell" for k in node.keywords)
            assert not name.endswith((".extractall", ".extract"))


def test_the_training_loop_fits_on_a_page() -> None:
    assert len((ROOT / "src/convatlas/training/loop.py").read_text().splitlines()) <= 110
    tree = ast.parse((ROOT / "src/convatlas/training/loop.py").read_text())
    fit = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "fit")
    assert fit.end_lineno is not None
    assert fit.end_lineno - fit.lineno < 80


def test_every_dependency_is_pinned_exactly() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [w for extra in project["optional-dependencies"].values() for w in extra]
    pins = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {re.split(r"[<>=\[]", w)[0].lower() for w in wanted} <= pins


def test_the_networks_page_is_as_make_docs_makes_it() -> None:
    networks = runpy.run_path(str(ROOT / "docs" / "networks.py"))
    assert networks["PAGE"].read_text() == networks["page"](), "run make docs"


def test_the_notes_page_is_as_make_docs_makes_it() -> None:
    notes = runpy.run_path(str(ROOT / "docs" / "notes.py"))
    assert notes["PAGE"].read_text() == notes["page"](), "run make docs"


def test_the_page_of_recipes_is_as_make_docs_makes_it() -> None:
    recipes = runpy.run_path(str(ROOT / "docs" / "recipes.py"))
    assert recipes["PAGE"].read_text() == recipes["page"](), "run make docs"


def test_the_readmes_commands_exist() -> None:
    from convatlas.cli.registry import COMMANDS

    text = "".join(page.read_text() for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))])
    assert set(re.findall(r"(?<!import )\bconvatlas ([a-z]+)", text)) <= {*COMMANDS}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= targets
