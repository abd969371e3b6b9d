"""The packages of a user's that may be imported for networks.

Names in files are data until the user trusts them: importing a package runs its code.
"""

import re

from convatlas.errors import UsageError, printable

_PACKAGE = re.compile(r"[A-Za-z_]\w*")
_packages: set[str] = set()
_factories: set[str] = set()


def trust_package(package: str) -> None:
    """Allow the networks of a package, by its top-level name, in this process. Raises UsageError for what is
    no such name."""
    if not isinstance(package, str) or not _PACKAGE.fullmatch(package):
        raise UsageError(
            f"a trusted package is given by its top-level name, as mypackage, not {printable(package)!r}"
        )
    _packages.add(package)


def trust_factory(path: object) -> None:
    """Allow the factory of one network, which the user has typed; other names need no trust."""
    if isinstance(path, str) and ":" in path:
        _factories.add(path)


def check_trusted(path: str) -> None:
    """Raises UsageError for a factory that the user has neither typed nor trusted by its package."""
    package = path.partition(":")[0].partition(".")[0]
    if package not in _packages and path not in _factories:
        name = printable(package)
        raise UsageError(
            f"the network {printable(path)} is code of the package {name}, which is imported only if you "
            f"trust it: --trust {name}, or ca.load(..., trust='{name}')"
        )
