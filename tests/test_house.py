"""The house's own rules, read off the source."""

import ast
import re
import runpy
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "convatlas"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Imports point to the right only; rooms of one tier do not import each other (CONTRIBUTING: "How the house is
# built").
TIERS = (
    ("__main__",),
    ("cli",),
    ("explore",),
    ("studies",),
    ("benchmark",),
    ("training", "export"),
    ("evaluation", "interop", "visualization"),
    ("segmentation", "boxes"),
    ("recipes", "classifier"),
    ("inference",),
    ("data", "models"),
    ("layers", "optim", "analysis"),
    ("runtime", "storage"),
    ("formatting", "markdown", "plotting"),
    ("errors",),
    ("names",),
)
TIER = {room: number for number, rooms in enumerate(TIERS) for room in rooms}

# Inside a room the same holds: its sub-rooms and files, from those that import to those that are imported.
# What is not listed may import all of them, and none of them imports it.
SUBROOMS = {
    "data": ("curation", "task", "loading", "sources", "transforms", "dataset", "mask", "images"),
    "analysis": ("render", "report", "design_principles", "rows", "trace", "receptive_field"),
    "training": ("train", "result", "task_result", "loop", "context", "comparison", "planning", "resolve"),
    "runtime": ("runtime", "cuda_graph", "hardware", "device", "distributed"),
}

# Words that say nothing of what they hold
FILLERS = {"found", "one", "asked", "said", "seen", "kept", "theirs"}
MAX_LINES = 300


def name_of(source: Path) -> str:
    """`convatlas.data.images.decode`; a package by its own name."""
    parts = source.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(source): source for source in SOURCES}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules of convatlas that a file imports, anywhere in it, under TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "convatlas":
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                if module in MODULES:
                    yield module
                elif node.module != "convatlas":
                    yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("convatlas."))


GRAPH = {module: set(imports(ast.parse(source.read_text()))) - {module} for module, source in MODULES.items()}


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, found by removing, again and again, those that import none
    that is left.
    """
    left = {module: {target for target in targets if target in graph} for module, targets in graph.items()}
    while free := [module for module, targets in left.items() if not targets]:
        for module in free:
            del left[module]
        for targets in left.values():
            targets.difference_update(free)
    return [sorted(left)] if left else []


def rank(module: str) -> int | None:
    """The place of a module in its room's order; None where it has none."""
    order = SUBROOMS.get(room(module), ())
    parts = module.split(".")
    return order.index(parts[2]) if len(parts) > 2 and parts[2] in order else None


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_room_imports_only_rooms_to_its_right(module: str) -> None:
    importer = room(module)
    if importer == "__init__":
        return
    for target in GRAPH[module]:
        imported = room(target)
        assert imported == importer or TIER[imported] > TIER[importer], f"{module} imports {target}"


@pytest.mark.parametrize("module", sorted(module for module in MODULES if rank(module) is not None))
def test_a_subroom_imports_only_subrooms_after_it(module: str) -> None:
    place = rank(module)
    assert place is not None
    for target in GRAPH[module]:
        if room(target) == room(module) and ".".join(target.split(".")[:3]) != ".".join(
            module.split(".")[:3]
        ):
            target_place = rank(target)
            assert target_place is None or target_place > place, f"{module} imports {target}"


def test_there_is_no_circle_of_imports() -> None:
    graph = {module: targets for module, targets in GRAPH.items() if module != "convatlas"}
    assert cycles(graph) == []


def test_the_rules_would_notice_what_they_forbid() -> None:
    source = "from convatlas.training import loop\nimport convatlas.cli.main\nfrom convatlas import models"
    assert list(imports(ast.parse(source))) == [
        "convatlas.training.loop",
        "convatlas.cli.main",
        "convatlas.models",
    ]
    assert TIER["training"] < TIER["models"]
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c", "d"]]
    assert cycles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    tree = ast.parse("def find() -> int:\n    found = 1\n    return found\n\n\ndef asked() -> None: ...")
    assert sorted(filler_names(tree)) == ["asked", "found"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_no_file_is_too_long_to_read_in_one_sitting(source: Path) -> None:
    assert len(source.read_text().splitlines()) <= MAX_LINES


def filler_names(tree: ast.AST) -> Iterator[str]:
    """Filler words as names of functions, classes and returned variables."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name.strip("_").lower() in FILLERS:
                yield node.name
        elif (
            isinstance(node, ast.Return | ast.Yield)
            and isinstance(node.value, ast.Name)
            and node.value.id.strip("_").lower() in FILLERS
        ):
            yield node.value.id


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_names_say_what_they_hold(source: Path) -> None:
    assert source.stem.strip("_").lower() not in FILLERS
    assert list(filler_names(ast.parse(source.read_text()))) == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_nothing_unpickles_or_runs_text_or_a_shell(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            if names == ["UnpicklingError", "pickle"]:
                continue  # the name of an error, for what torch refuses
            assert not {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"} & {
                name.split(".")[0] for name in names
            }
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in ("eval", "exec", "os.system", "torch.jit.load", "__import__"), (
                f"{source}:{node.lineno}"
            )
            if name == "torch.load":  # other libraries' weights alone, and of them nothing but tensors
                assert room(name_of(source)) == "interop"
                assert ast.unparse(next(k.value for k in node.keywords if k.arg == "weights_only")) == "True"
            assert not any(k.arg == "shell" for k in node.keywords)
            assert not name.endswith((".extractall", ".extract"))


def test_the_training_loop_fits_on_a_page() -> None:
    loop = PACKAGE / "training" / "loop.py"
    assert len(loop.read_text().splitlines()) <= 110
    tree = ast.parse(loop.read_text())
    fit = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "fit")
    assert fit.end_lineno is not None
    assert fit.end_lineno - fit.lineno < 80


def test_the_newcomers_path_is_one_sitting() -> None:
    path = ("models/resnet.py", "recipes/resnet.py", "training/step.py", "training/loop.py")
    assert sum(len((PACKAGE / file).read_text().splitlines()) for file in path) < 700


def test_every_dependency_is_pinned_exactly() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [
        w for extra in project["optional-dependencies"].values() for w in extra
    ]
    pins = {
        line.split("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
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

    text = "".join(
        page.read_text()
        for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    )
    assert set(re.findall(r"(?<!import )\bconvatlas ([a-z]+)", text)) <= {*COMMANDS}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= targets
