"""Tensors of a checkpoint that `torch.save` wrote, read without running anything that its pickle names.

Two guards stand before the memory: what the archive's directory and the pickle's tensor shapes announce must
be possible for a file of this size, and every global that the pickle names must be one that tensors need, or
one of the harmless types that trainers save beside them, which are skipped.
"""

import math
import pickletools
import re
import warnings
import zipfile
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch

from convatlas.errors import UserError, printable
from convatlas.interop.nested_tensors import tensors_of

MAX_PICKLE_BYTES = 64 << 20  # of the description of all tensors; that of ResNet-1202 has 1 MB
SMALL_BYTES = 64 << 20  # an archive may always unpack to this
MAX_RATIO = 4  # of unpacked to packed bytes; trained weights hardly compress

# What torch.save names for tensors, parameters and plain containers
_TENSOR_GLOBALS = re.compile(
    r"torch\.(cuda\.)?[A-Za-z0-9]+Storage|torch\.(float|bfloat|bool|complex|double|half|long|q?u?int)\w*"
    r"|torch\._utils\._rebuild_(parameter|parameter_with_state|tensor|tensor_v2|qtensor|sparse_tensor"
    r"|meta_tensor_no_storage)|torch\.nn\.parameter\.Parameter|torch\.serialization\._get_layout"
    r"|torch\.(Size|device|per_\w+)|collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(set|complex)"
)
# Types that trainers save beside the weights; nothing of them is kept
_SKIPPED_GLOBALS = (
    *("argparse.Namespace", "types.SimpleNamespace", "collections.defaultdict", "builtins.dict"),
    *("builtins.list", "builtins.int", "builtins.float", "builtins.frozenset", "builtins.slice"),
    *("numpy.dtype", "numpy.ndarray", "torch.torch_version.TorchVersion"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")
        for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    ),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
)
_INTEGERS = ("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4")


class Skipped:
    """Stands for an object of a harmless type: it takes what the pickle gives it, and keeps nothing."""

    def __new__(cls, *_: Any) -> "Skipped":
        return super().__new__(cls)

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _empty_dict(*_: Any) -> dict[Any, Any]:
    """Stands for a `defaultdict`, whose items the pickle sets afterwards."""
    return {}


def load_checkpoint(stream: BinaryIO, name: object) -> Any:
    """What the file holds: mappings and lists with tensors and plain values.

    Raises UserError for a file that is damaged, that names a global of another kind, or that would take more
    memory than a file of this size can fill.
    """
    size = stream.seek(0, 2)
    stream.seek(0)
    is_zip = stream.read(4) == b"PK\x03\x04"
    stream.seek(0)
    try:
        unpacked = _check_archive(stream, size, name) if is_zip else _check_legacy(stream, size, name)
        stream.seek(0)
        with warnings.catch_warnings(), torch.serialization.safe_globals(_stand_ins()):
            warnings.simplefilter("ignore")  # torch warns about old pickle protocols
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except UnpicklingError as error:
        raise _not_tensors(name, _unpickling_reason(error)) from None
    except Exception as error:  # hostile bytes can make the readers raise any exception
        reason = str(error).split(". ")[0].splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{printable(name)} is damaged or no weight file ({printable(reason)}): expected .pth or "
            ".safetensors, complete; copy or download it again"
        ) from None
    _check_storages(content, max(size, unpacked), name)
    return content


def _stand_ins() -> list[Any]:
    return [
        (_empty_dict if name == "collections.defaultdict" else Skipped, name) for name in _SKIPPED_GLOBALS
    ]


def _check_archive(stream: BinaryIO, size: int, name: object) -> int:
    """The unpacked bytes of a zip archive, after its directory and its pickle were checked."""
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if unpacked > max(MAX_RATIO * size, SMALL_BYTES):
            raise UserError(
                f"{printable(name)} has {size / 1e6:,.1f} MB but would unpack to {unpacked / 1e9:,.1f} GB: "
                "expected a file as torch.save writes it, which is not compressed"
            )
        pickles = [member for member in members if member.filename.endswith("/data.pkl")]
        if not pickles:
            raise UserError(
                f"{printable(name)} is a zip archive without data.pkl: expected one of torch.save"
            )
        for member in pickles:
            if member.file_size > MAX_PICKLE_BYTES:
                raise UserError(
                    f"{printable(name)} describes its tensors in {member.file_size >> 20:,} MB: expected "
                    f"at most {MAX_PICKLE_BYTES >> 20} MB; save the weights alone"
                )
            with archive.open(member) as pickle:
                _check_pickle(pickle, unpacked, name)
    return unpacked


def _check_legacy(stream: BinaryIO, size: int, name: object) -> int:
    """The same for the format before torch 1.6: pickles of a magic number, a version, the system, the
    content and the storages' keys, then the storages."""
    for _ in range(5):
        _check_pickle(stream, size, name)
    return size


class _BoundedReader:
    """A stream that reads at most `size` bytes at once: a pickle may announce a string of any length, for
    which `read` would allocate memory first."""

    def __init__(self, stream: Any, size: int):
        self.stream = stream
        self.size = size
        self.readline = stream.readline

    def read(self, count: int) -> bytes:
        data: bytes = self.stream.read(min(count, self.size))
        return data


def _check_pickle(stream: Any, max_elements: int, name: object) -> None:
    """Raises UserError for a global that weights do not need, and for a tensor of more elements than the
    file has bytes."""
    strings: list[str] = []  # the last two
    integers: list[int] = []  # since the last storage
    awaits_size = False
    reader: Any = _BoundedReader(stream, max_elements)
    for code, value, _ in pickletools.genops(reader):
        opcode = code.name
        if isinstance(value, str):
            strings = [*strings[-1:], value]
        if opcode in ("GLOBAL", "STACK_GLOBAL"):
            global_name = _canonical_name(str(value) if opcode == "GLOBAL" else ".".join(strings))
            if not _TENSOR_GLOBALS.fullmatch(global_name) and global_name not in _SKIPPED_GLOBALS:
                raise _not_tensors(name, global_name)
            if opcode == "STACK_GLOBAL":
                raise UserError(
                    f"{printable(name)} was saved with a pickle protocol after 2, which is not read: save it "
                    "again with torch.save(model.state_dict(), FILE)"
                )
        elif opcode in _INTEGERS and isinstance(value, int):
            integers.append(value)
        elif opcode == "BINPERSID":  # a storage: its number of elements is the last integer of its tuple
            _check_elements(integers[-1:], max_elements, name)
            integers.clear()
            awaits_size = True
        elif "TUPLE" in opcode and awaits_size:  # the offset, then the shape
            _check_elements(integers[1:], max_elements, name)
            awaits_size = False


def _check_elements(shape: list[int], max_elements: int, name: object) -> None:
    elements = math.prod(shape)
    if elements > max_elements:
        raise UserError(
            f"{printable(name)} describes a tensor of {elements:,} elements, more than its "
            f"{max_elements:,} bytes can hold: it is damaged; copy or download it again"
        )


def _canonical_name(value: str) -> str:
    """`module name` of the opcode as `module.name`, with Python 3's names."""
    name = value.replace(" ", ".", 1)
    for old, new in (("__builtin__.", "builtins."), ("copy_reg.", "copyreg.")):
        name = name.replace(old, new, 1) if name.startswith(old) else name
    return name


def _check_storages(content: Any, max_bytes: int, name: object) -> None:
    """Raises UserError where the tensors have more bytes than the file: a shape can enlarge its storage."""
    storages = {}
    for tensor in tensors_of(content).values():
        if tensor.layout is torch.strided and not tensor.is_meta:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            _check_elements([tensor.numel() * tensor.element_size()], max(storage.nbytes(), 1), name)
    _check_elements([sum(storages.values())], max_bytes, name)


def _unpickling_reason(error: UnpicklingError) -> str:
    match = re.search(r"(?:GLOBAL|global:?|operand) (\S+)", str(error))
    return match[1] if match else "or is damaged"


def _not_tensors(name: object, reason: str) -> UserError:
    return UserError(
        f"{printable(name)} holds something other than tensors ({printable(reason)}), which is never run: "
        "its owner can save the weights alone, with torch.save(model.state_dict(), FILE) or as safetensors"
    )
