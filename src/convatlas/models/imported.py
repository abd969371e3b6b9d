"""Networks of a user's own, named by the import path of their factory: `package.module:function`.

The factory is called with those of the keyword arguments `num_classes`, `in_chans` and `image_size` that it
takes, and with its own, and returns a module: images (n, in_chans, h, w) -> logits (n, num_classes).
"""

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from convatlas.analysis.trace.main_output import main_output
from convatlas.errors import UsageError, printable, unknown_name
from convatlas.models.network import ModelEntry, Network
from convatlas.runtime.trust import check_trusted

_PATH = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
INPUT = (3, 224, 224)  # where the factory has no image_size and the data no size
# The arguments that every network has, and their defaults where the factory has none
_COMMON: dict[str, Any] = {"num_classes": 1000, "in_chans": 3, "image_size": None}
_WEIGHTS = ("weights", "pretrained")  # arguments that keep the factory's default: weights come from files


def is_import_path(name: object) -> bool:
    """Whether a network's name is a factory's import path."""
    return isinstance(name, str) and _PATH.fullmatch(name) is not None


class ImportedNetwork(Network):
    """The module of a factory: images (n, in_chans, h, w) -> its logits, `logits` or `out` among several."""

    def __init__(self, path: str, module: nn.Module, in_chans: int):
        super().__init__(in_chans)
        self.path = path
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        output = self.module(self.check_images(images))
        if isinstance(output, Tensor):
            return output
        main = main_output(output)
        if main is None:
            raise UsageError(f"{self.path} gives a {type(output).__name__} without tensors: expected logits")
        return main.tensor

    @property
    def classifier(self) -> str:
        """The last linear layer or convolution."""
        layers = [path for path, m in self.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        return layers[-1] if layers else "module"


class Factory:
    """A user's factory as a builder of networks, with the keyword arguments that it takes."""

    def __init__(self, path: str):
        """Raises UsageError for a factory that is not trusted, does not exist or takes no `num_classes`."""
        self.path = path
        self.function = _import(path)
        try:
            self.parameters = dict(inspect.signature(self.function).parameters)
        except (TypeError, ValueError):
            raise UsageError(f"{path} has no signature: give a function that builds the network") from None
        takes_any = any(p.kind is p.VAR_KEYWORD for p in self.parameters.values())
        self.taken = {*self.parameters} | ({"num_classes"} if takes_any else set())
        if "num_classes" not in self.taken:
            raise UsageError(f"{path} takes no num_classes: give it that argument, the number of its logits")
        for name, p in self.parameters.items():
            is_named = p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
            if p.default is p.empty and is_named and name not in _COMMON:
                raise UsageError(f"{path} needs the argument {name}: give it a default")
        keyword = inspect.Parameter.KEYWORD_ONLY
        self.__signature__ = inspect.Signature(
            [inspect.Parameter(name, keyword, default=value) for name, value in self._defaults()]
        )

    def _defaults(self) -> list[tuple[str, Any]]:
        own = {name: p.default for name, p in self.parameters.items() if name not in _WEIGHTS}
        simple = {name: d for name, d in own.items() if isinstance(d, bool | int | float | str | None)}
        return list((_COMMON | simple).items())

    def __call__(self, **arguments: Any) -> Network:
        """Raises UsageError for a factory that raises, or returns no module, or one of other channels."""
        try:
            module = self.function(**{name: v for name, v in arguments.items() if name in self.taken})
        except Exception as error:  # of code that is not ours
            message = printable(str(error).strip().partition("\n")[0])[:200]
            raise UsageError(f"{self.path} raised {type(error).__name__}: {message}") from None
        if not isinstance(module, nn.Module):
            raise UsageError(f"{self.path} returned a {type(module).__name__}: expected an nn.Module")
        if isinstance(module, Network):
            return module
        first = next((layer for layer in module.modules() if isinstance(layer, nn.Conv2d)), None)
        if first is not None and first.in_channels != arguments["in_chans"]:
            raise UsageError(
                f"{self.path} built a network for images of {first.in_channels} channels, not "
                f"{arguments['in_chans']}: let it take in_chans, or --set model.arguments.in_chans="
                f"{first.in_channels}"
            )
        return ImportedNetwork(self.path, module, arguments["in_chans"])

    @property
    def input(self) -> tuple[int, int, int]:
        """Channels, height and width of the factory's own defaults."""
        defaults = dict(self._defaults())
        size = defaults["image_size"]
        height, width = (size, size) if isinstance(size, int) else INPUT[1:]
        return int(defaults["in_chans"] or INPUT[0]), height, width


def imported_entry(path: str) -> ModelEntry:
    """The entry of a factory. Raises UsageError where it is not trusted, or cannot be one."""
    check_trusted(path)
    return _entry(path)


@cache
def _entry(path: str) -> ModelEntry:
    factory = Factory(path)
    return ModelEntry(
        name=path,
        builders={"paper": factory},
        paper="a network of the user's own",
        year=0,
        source=path,
        input=factory.input,
        headline="none printed",
        is_imported=True,
    )


def module_sha256(path: str) -> str:
    """SHA-256 of the source file that holds a factory, as it was imported; "" for one without a file."""
    module = sys.modules.get(path.partition(":")[0])
    file = getattr(module, "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def _import(path: str) -> Callable[..., Any]:
    module_name, _, function_name = path.partition(":")
    check_trusted(path)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise UsageError(
                f"there is no module {error.name} for the network {path}: install it, or add its folder to "
                "PYTHONPATH"
            ) from None
        raise UsageError(f"{module_name} needs {error.name}, which is not installed") from None
    except Exception as error:  # of code that is not ours
        message = printable(str(error).strip().partition("\n")[0])[:200]
        raise UsageError(f"importing {module_name} raised {type(error).__name__}: {message}") from None
    function = getattr(module, function_name, None)
    if function is None:
        functions = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
        raise unknown_name(f"function of {module_name}", function_name, functions)
    if not callable(function):
        raise UsageError(f"{path} is a {type(function).__name__}: expected a function that builds a module")
    return function  # type: ignore[no-any-return]
