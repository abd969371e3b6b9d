"""Files that are no readable images, and the errors of the libraries that find it out."""

import re

from convatlas.data.images.file_format import FORMATS
from convatlas.errors import UserError, printable


class UnreadableImage(UserError):
    """A file that is not a readable image: its name and the reason, both printable."""

    def __init__(self, name: str, reason: str):
        self.name = printable(name)
        self.reason = printable(reason)
        super().__init__(f"{self.name}: {self.reason}")

    def __reduce__(self) -> tuple[type["UnreadableImage"], tuple[str, str]]:
        return type(self), (self.name, self.reason)  # one rank sends it to another


class UnreadableOnError:
    """Turn any exception into UnreadableImage: decoders raise all kinds of exceptions on hostile bytes."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UserError) or not isinstance(error, Exception):
            return
        if isinstance(error, OSError) and error.strerror and error.filename:
            raise UnreadableImage(self.name, error.strerror) from None
        reason = re.sub(r"<_io\.\w+ object at \w+>", "it", printable(error).replace(self.name, "it"))
        raise UnreadableImage(self.name, f"not a readable {'/'.join(FORMATS)} image ({reason})") from None
