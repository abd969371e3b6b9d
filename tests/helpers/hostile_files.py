"""Hostile files by number: the same number always gives the same bytes."""

import hashlib
import io
import json
import random
import re
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from convatlas import models
from convatlas.classifier import FORMAT, ClassifierMetadata
from convatlas.data.transforms.preprocessing import fixed_size_preprocessing
from convatlas.storage import checked_safetensors
from helpers.damage import color_image, encode

CASES = 10_000
MAX_PIXELS = 100_000_000  # larger images are refused: hostile headers have sizes on both sides of it


Change = Callable[[random.Random, bytes], bytes]


class Case(NamedTuple):
    reader: str  # model, weights or image
    change: str  # the kind of file, and what was done to it
    data: bytes


def make_case(number: int) -> Case:
    rng = random.Random(number)
    make = rng.choices((_model_case, _weights_case, _image_case), (4, 2, 5))[0]
    return make(rng)


# Changes of the bytes of any file


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def _flip_bits(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 5, 50))):
        changed[_random_offset(rng, changed)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(rng: random.Random, data: bytes) -> bytes:
    start = _random_offset(rng, data)
    length = rng.choice((1, 2, 4, 16, 256))
    filler = rng.choice((b"\0", b"\xff", None))
    new = rng.randbytes(length) if filler is None else filler * length
    return data[:start] + new + data[start + length :]


def _set_extreme_number(rng: random.Random, data: bytes) -> bytes:
    """Set a number somewhere, most likely in the header, to an extreme value."""
    size = rng.choice((1, 2, 4, 8))
    largest = (1 << 8 * size) - 1
    largest_signed = (1 << 8 * size - 1) - 1
    value = rng.choice((0, 1, 2, largest_signed, largest_signed + 1, largest, rng.getrandbits(8 * size)))
    start = _random_offset(rng, data)
    return data[:start] + value.to_bytes(size, rng.choice(("big", "little"))) + data[start + size :]


def _insert_bytes(rng: random.Random, data: bytes) -> bytes:
    start = _random_offset(rng, data)
    return data[:start] + rng.randbytes(rng.choice((1, 7, 300))) + data[start:]


def _delete_bytes(rng: random.Random, data: bytes) -> bytes:
    start = _random_offset(rng, data)
    return data[:start] + data[start + rng.choice((1, 7, 300)) :]


def _repeat_bytes(rng: random.Random, data: bytes) -> bytes:
    start, end = sorted((_random_offset(rng, data), rng.randrange(len(data))))
    return data[:end] + data[start:end] * rng.choice((1, 2, 20)) + data[end:]


def _random_offset(rng: random.Random, data: bytes | bytearray) -> int:
    """An offset in the data; half of the time among the first bytes, where headers are."""
    return rng.randrange(min(len(data), 64) if rng.random() < 0.5 else len(data))


BYTE_CHANGES: tuple[Change, ...] = (
    _truncate,
    _flip_bits,
    _overwrite,
    _set_extreme_number,
    _insert_bytes,
    _delete_bytes,
    _repeat_bytes,
)


# Changes of a document


def _unexpected_value(rng: random.Random) -> Any:
    """A value that no field expects."""
    simple: list[Any] = [
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63,
        2**64,
        10**30,
        -(2**63),
        0.0,
        -0.5,
        1e-320,
        1e308,
        1e9,
        37,
        4097,
        100_000,
    ]
    simple += [
        "",
        "a",
        "resnet50",
        "\x1b]52;c;aGk=\x07",
        "\x00",
        "é" * 500,
        "x" * 100_000,
        "../../etc/passwd",
        "NaN",
    ]
    makers: list[Callable[[], Any]] = [
        lambda: rng.choice(simple),
        lambda: rng.choice(simple),
        lambda: [rng.choice(simple) for _ in range(rng.choice((0, 1, 2, 3, 1000)))],
        lambda: {str(rng.choice(simple)): rng.choice(simple) for _ in range(rng.choice((0, 1, 3)))},
        lambda: _nested_list(rng.choice((3, 100, 5000))),
    ]
    return rng.choice(makers)()


def _nested_list(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def _encode_json(value: Any) -> bytes:
    """Like json.dumps, whose recursion deeply nested lists would exhaust."""
    if isinstance(value, dict):
        items = (json.dumps(str(key)).encode() + b":" + _encode_json(v) for key, v in value.items())
        return b"{" + b",".join(items) + b"}"
    depth = 0
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
        depth += 1
    if isinstance(value, list):
        inner = b"[" + b",".join(_encode_json(v) for v in value) + b"]"
    else:
        inner = json.dumps(value).encode()
    return b"[" * depth + inner + b"]" * depth


def _change_document(rng: random.Random, tree: Any) -> None:
    """Replace a value somewhere in a document, delete it, or repeat it under another name."""
    node: Any = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = rng.choice(keys)
        if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.3:
            break
        node = node[key]
    action = rng.random()
    if action < 0.75:
        node[key] = _unexpected_value(rng)
    elif action < 0.9 or isinstance(node, list):
        del node[key]
    else:
        node[f"{key}x"] = node[key]


# Model files of ConvAtlas


@cache
def _model_files() -> tuple[bytes, ...]:
    """The files of three small networks."""
    files = []
    size = 32
    for name, width in (("lenet5", 0.5), ("resnet20_cifar", 0.125), ("vgg11_bn", 0.02)):
        torch.manual_seed(0)
        model = models.create_model(name, num_classes=4, in_chans=3, image_size=(size, size), width=width)
        assert model.architecture is not None
        metadata = ClassifierMetadata(
            format=FORMAT,
            network=model.architecture,
            classes=("bird", "flower", "fruit", "vehicle"),
            preprocessing=fixed_size_preprocessing(3, (28, 28), (size, size)),
            precision="fp32",
            batch=4,
            provenance={"run": "0" * 64, "data": "digits", "seed": 0},
            metrics={"test_top1": 90.0},
        )
        state = dict(model.state_dict())
        normalizer = {f"preprocessing.{key}": torch.full((3, 1, 1), 0.5) for key in ("mean", "std")}
        files.append(checked_safetensors.serialize(state | normalizer, metadata))
    return tuple(files)


def _split_file(data: bytes) -> tuple[Any, bytes]:
    """The header of a safetensors file, and the bytes of its tensors."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _join_file(header: bytes, tensor_bytes: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + tensor_bytes


def _read_metadata(header: Any) -> Any:
    return json.loads(header["__metadata__"]["convatlas"])["document"]


def _write_metadata(header: Any, metadata: Any) -> None:
    document = _encode_json(metadata).decode()
    header["__metadata__"]["convatlas"] = f'{{"document":{document},"sha256":"{"0" * 64}"}}'


def _with_valid_checksum(data: bytes) -> bytes:
    """The file with the right checksum, as an attacker would write it."""
    checksum = re.search(rb'\\"sha256\\": ?\\"([^"]{64})\\"', data)
    if checksum is None:
        return data
    before, after = data[: checksum.start(1)], data[checksum.end(1) :]
    sha256 = hashlib.sha256(before + b"0" * 64 + after).hexdigest().encode()
    return before + sha256 + after


def _change_metadata(rng: random.Random, data: bytes) -> bytes:
    header, tensor_bytes = _split_file(data)
    metadata = _read_metadata(header)
    for _ in range(rng.choice((1, 1, 2, 4))):
        _change_document(rng, metadata)
    _write_metadata(header, metadata)
    return _join_file(_encode_json(header), tensor_bytes)


def _change_network(rng: random.Random, data: bytes) -> bytes:
    """Set another network, or arguments and a preprocessing that agree with each other but make no sense."""
    header, tensor_bytes = _split_file(data)
    metadata = _read_metadata(header)
    name = rng.choice(models.list_models())
    huge = rng.choice((0, 1, 1 << 12, 1 << 16, 1 << 31, 1 << 40, 10**9))
    change = rng.randrange(5)
    if change == 0:
        metadata["network"] = json.loads(json.dumps(architecture_document(name)))
    elif change == 1:
        metadata["network"]["arguments"]["width"] = rng.choice((1e-9, 1e3, 1e6, 1e12, 1e300, float(huge)))
    elif change == 2:
        metadata["network"]["arguments"]["num_classes"] = huge
        metadata["classes"] = [str(i) for i in range(min(huge, 20_000))]
    elif change == 3:
        side = [huge, rng.choice((huge, 32))]
        metadata["network"]["arguments"]["image_size"] = side
        metadata["preprocessing"]["input_size"] = metadata["preprocessing"]["resize_size"] = side
        metadata["preprocessing"]["mode"] = rng.choice(("none", "pad", "resize", "crop"))
    else:
        metadata["preprocessing"] |= {
            "resize_size": [rng.choice((0, -1, 1, 28, 32, 40, huge)) for _ in "hw"],
            "input_size": [rng.choice((0, -1, 1, 28, 32, 32, huge)) for _ in "hw"],
            "channels": rng.choice((3, 3, 3, 0, 1, 2, huge)),
            "mode": rng.choice(("none", "pad", "resize", "crop")),
        }
    _write_metadata(header, metadata)
    return _join_file(_encode_json(header), tensor_bytes)


@cache
def architecture_document(name: str) -> dict[str, Any]:
    architecture = models.get_architecture(name)
    return {"name": architecture.name, "edition": architecture.edition, "arguments": architecture.arguments}


def _change_header(rng: random.Random, data: bytes) -> bytes:
    """Change the safetensors header: types, shapes, offsets, names."""
    header, tensor_bytes = _split_file(data)
    change = rng.randrange(9)
    names = [name for name in header if name != "__metadata__"]
    name, other = rng.sample(names, 2)
    if change == 0:
        dtypes = ("F64", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "F4", "C64", "X", "", 7)
        header[name]["dtype"] = rng.choice(dtypes)
    elif change == 1:
        sizes = (0, 1, -1, 1 << 20, 1 << 31, 1 << 62, 2**64)
        header[name]["shape"] = [rng.choice(sizes) for _ in range(rng.choice((0, 1, 4, 100)))]
    elif change == 2:
        offsets = (0, 1, -8, 1 << 40, 2**64 - 1, len(tensor_bytes))
        header[name]["data_offsets"] = [rng.choice(offsets) for _ in range(rng.choice((1, 2, 2, 2, 3)))]
    elif change == 3:
        header[name]["data_offsets"] = header[other]["data_offsets"]
    elif change == 4:
        del header[name]
    elif change == 5:
        header[name[::-1]] = header[name]
    elif change == 6:
        header["__metadata__"][str(rng.choice(("a", "format", "", "convatlas2")))] = _unexpected_value(rng)
    elif change == 7:
        end = len(tensor_bytes)
        empty_tensor = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}
        header |= {f"t{i}": empty_tensor for i in range(rng.choice((1, 1000, 50_000)))}
    else:
        _change_document(rng, header)
    return _join_file(_encode_json(header), tensor_bytes)


def _change_header_text(rng: random.Random, data: bytes) -> bytes:
    """Change the text of the header: invalid UTF-8, nesting, duplicate keys, spaces."""
    length = int.from_bytes(data[:8], "little")
    header, tensor_bytes = data[8 : 8 + length], data[8 + length :]
    change = rng.randrange(6)
    start = rng.randrange(1, len(header))
    if change == 0:
        inserted = rng.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\0", b"\\ud800", b"\\u0000"))
        header = header[:start] + inserted + header[start:]
    elif change == 1:
        depth = rng.choice((10, 1000, 100_000))
        header = b'{"deep":' + b'{"a":' * depth + b"1" + b"}" * depth + b"," + header[1:]
    elif change == 2:
        header = b"{" + header[1:-1] + b"," + header[1:]
    elif change == 3:
        header += b" " * rng.choice((1, 100_000, 9 << 20))
    elif change == 4:
        header = header.replace(b":", b": ")
    else:
        header = _flip_bits(rng, header)
    return _join_file(header, tensor_bytes)


def _set_non_finite_weight(rng: random.Random, data: bytes) -> bytes:
    """Set a weight to NaN, infinity, or nearly infinity."""
    header, tensor_bytes = _split_file(data)
    name = rng.choice([name for name in header if name != "__metadata__"])
    start = header[name]["data_offsets"][0]
    weight = rng.choice((float("nan"), float("inf"), -float("inf"), 3e38))
    tensor_bytes = tensor_bytes[:start] + struct.pack("<f", weight) + tensor_bytes[start + 4 :]
    return _join_file(data[8 : 8 + int.from_bytes(data[:8], "little")], tensor_bytes)


def _change_header_length(rng: random.Random, data: bytes) -> bytes:
    """Change the header's length, the first thing that is read."""
    length = int.from_bytes(data[:8], "little")
    lengths = [0, 1, 2, length - 1, length + 1, len(data) - 8, len(data) - 7]
    lengths += [8 << 20, 100_000_000, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]
    return rng.choice(lengths).to_bytes(8, "little") + data[8:]


MODEL_CHANGES = (
    _change_metadata,
    _change_metadata,
    _change_metadata,
    _change_network,
    _change_network,
    _change_header,
    _change_header,
    _change_header_text,
    _set_non_finite_weight,
    _change_header_length,
)


def _model_case(rng: random.Random) -> Case:
    data = rng.choice(_model_files())
    if rng.random() < 0.25:
        change = rng.choice(BYTE_CHANGES)
        changed = change(rng, data)
        if rng.random() < 0.5:
            changed = _with_valid_checksum(changed)
        return Case("model", f"bytes:{change.__name__[1:]}", changed)
    change = rng.choice(MODEL_CHANGES)
    return Case("model", f"valid checksum:{change.__name__[1:]}", _with_valid_checksum(change(rng, data)))


# Weight files of other libraries


@cache
def _weight_files() -> tuple[tuple[str, bytes], ...]:
    torch.manual_seed(0)
    tensors = dict(models.create_model("lenet5", width=0.5).state_dict())
    files = [("safetensors", safetensors.torch.save(tensors))]
    for kind, zipped in (("pth", True), ("old pth", False)):
        buffer = io.BytesIO()
        torch.save({"state_dict": tensors, "epoch": 3}, buffer, _use_new_zipfile_serialization=zipped)
        files.append((kind, buffer.getvalue()))
    return tuple(files)


def _weights_case(rng: random.Random) -> Case:
    kind, data = rng.choice(_weight_files())
    if kind == "safetensors" and rng.random() < 0.6:
        change = rng.choice(WEIGHTS_CHANGES)
        return Case("weights", f"{kind}:{change.__name__[1:]}", change(rng, data))
    if kind != "safetensors" and rng.random() < 0.6:
        return Case("weights", f"{kind}:pickle", _change_pickle(rng, data))
    change = rng.choice(BYTE_CHANGES)
    return Case("weights", f"{kind}:{change.__name__[1:]}", change(rng, data))


def _change_plain_header(rng: random.Random, data: bytes) -> bytes:
    header, tensor_bytes = _split_file(data)
    header["__metadata__"] = {}
    return _change_header(rng, _join_file(_encode_json(header), tensor_bytes))


WEIGHTS_CHANGES: tuple[Change, ...] = (
    _change_plain_header,
    _change_header_text,
    _change_header_length,
    _set_non_finite_weight,
)


PICKLE_OPCODES = (
    b"(.0l2Q]}aehijJKMNoptRrsubcBCXTUG\x80\x81\x82\x85\x86\x87\x88\x8a\x8b\x8d\x8e\x93\x94\x95\x96"
)


def _change_pickle(rng: random.Random, data: bytes) -> bytes:
    """Change opcodes and numbers of a pickle. The archive around it stays complete: its readers check no
    checksum."""
    start = data.find(b"\x80\x02")
    end = data.find(b".", data.find(b"epoch", start))
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        offset = rng.randrange(start, end)
        if rng.random() < 0.5:
            changed[offset] = rng.choice(PICKLE_OPCODES)
        else:
            number = rng.choice((0, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32)))
            size = max(1, (number.bit_length() + 7) // 8)
            changed[offset : offset + size] = number.to_bytes(size, "little")
    return bytes(changed)


# Images


@cache
def _image_files() -> tuple[tuple[str, bytes], ...]:
    """Files of every format that is read, in the variants that people have."""
    image = color_image()
    gray = image.convert("L")
    small = image.resize((40, 30))
    transparent = image.convert("RGBA")
    transparent.putalpha(gray)
    gray_16_bit = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    exif[0x010E] = "a picture"  # description
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0comment"
    frames = {
        "save_all": True,
        "append_images": [small.resize(image.size), gray.convert("RGB")],
        "duration": 50,
    }
    kinds: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("JPEG", image, {}),
        ("JPEG", image, {"progressive": True, "exif": exif}),
        ("JPEG", gray, {"quality": 30}),
        ("JPEG", image.convert("CMYK"), {}),
        ("JPEG", image, {"subsampling": 0, "comment": b"c" * 100, "icc_profile": bytes(200)}),
        ("PNG", image, {}),
        ("PNG", image.convert("P"), {}),
        ("PNG", transparent, {"exif": exif}),
        ("PNG", gray_16_bit, {}),
        ("PNG", image.convert("1"), {}),
        ("WEBP", image, {"exif": exif}),
        ("WEBP", image, {"lossless": True}),
        ("WEBP", transparent, {}),
        ("WEBP", image, frames),
        ("BMP", image, {}),
        ("BMP", image.convert("P"), {}),
        ("GIF", image, {}),
        ("GIF", image, frames),
        ("TIFF", image, {"exif": exif}),
        ("TIFF", image, {"compression": "tiff_lzw"}),
        ("TIFF", image, {"compression": "tiff_adobe_deflate"}),
        ("TIFF", image, {"compression": "jpeg"}),
        ("TIFF", image, {"compression": "packbits"}),
        ("TIFF", image.convert("1"), {"compression": "group4"}),
        ("TIFF", gray_16_bit, {}),
        ("TIFF", gray.convert("F"), {}),
        ("TIFF", transparent, {"save_all": True, "append_images": [image]}),
    ]
    return tuple((kind.lower(), encode(kind, image, **options)) for kind, image, options in kinds)


def _image_case(rng: random.Random) -> Case:
    kind, data = rng.choice(_image_files())
    if rng.random() < 0.12:
        make_bomb = rng.choice(BOMBS)
        return Case("image", f"bomb:{make_bomb.__name__[1:]}", make_bomb(rng))
    if kind in STRUCTURE_CHANGES and rng.random() < 0.55:
        return Case("image", f"{kind}:structure", STRUCTURE_CHANGES[kind](rng, data))
    if rng.random() < 0.08:
        other = rng.choice(_image_files())[1]
        spliced = data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]
        return Case("image", f"{kind}:spliced", spliced)
    change = rng.choice(BYTE_CHANGES)
    return Case("image", f"{kind}:{change.__name__[1:]}", change(rng, data))


def _extreme_side(rng: random.Random) -> int:
    sides = (0, 1, 2, 60, 80, 1000, 9_999, 16_383, 30_000, 65_535, 1 << 20, (1 << 31) - 1, 1 << 31)
    return rng.choice(sides)


PNG_CHUNKS = (
    *(b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"PLTE", b"tRNS", b"eXIf"),
    *(b"acTL", b"fcTL", b"fdAT", b"gAMA", b"pHYs", b"sRGB"),
)


def _change_png_chunks(rng: random.Random, data: bytes) -> bytes:
    """Change chunks, with valid checksums, so that their contents are read."""
    chunks = []
    offset = 8
    while offset + 8 <= len(data):
        length = int.from_bytes(data[offset : offset + 4], "big")
        chunks.append((data[offset + 4 : offset + 8], data[offset + 8 : offset + 8 + length]))
        offset += 12 + length
    change = rng.randrange(5)
    index = rng.randrange(len(chunks))
    if change == 0:
        header = bytearray(chunks[0][1])
        header[0:8] = struct.pack(">II", _extreme_side(rng), _extreme_side(rng))
        chunks[0] = b"IHDR", bytes(header)
    elif change == 1:
        header = bytearray(chunks[0][1])
        header[rng.randrange(8, 13)] = (
            rng.randrange(256) if rng.random() < 0.3 else rng.choice((0, 1, 2, 3, 4, 6, 8, 16))
        )
        chunks[0] = b"IHDR", bytes(header)
    elif change == 2:
        name, content = chunks[index]
        change_bytes = _flip_bits if rng.random() < 0.5 else _overwrite
        chunks[index] = name, change_bytes(rng, content or b"\0")
    elif change == 3:
        name = rng.choice(PNG_CHUNKS)
        chunks.insert(rng.randrange(1, len(chunks)), (name, rng.randbytes(rng.choice((0, 1, 4, 26, 300)))))
    else:
        chunks.insert(index, chunks.pop(rng.randrange(len(chunks))))
    return data[:8] + b"".join(_png_chunk(name, content) for name, content in chunks)


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _change_jpeg_segments(rng: random.Random, data: bytes) -> bytes:
    """Change segments, with valid lengths."""
    segments = []
    offset = 2
    while data[offset + 1] != 0xDA:
        length = int.from_bytes(data[offset + 2 : offset + 4], "big")
        segments.append((data[offset + 1], data[offset + 4 : offset + 2 + length]))
        offset += 2 + length
    scans = data[offset:]
    index = rng.randrange(len(segments))
    marker, content = segments[index]
    frame_index = next(i for i, (m, _) in enumerate(segments) if m in (0xC0, 0xC1, 0xC2))
    frame_marker, frame = segments[frame_index]
    change = rng.randrange(6)
    if change == 0:
        size = struct.pack(">HH", _extreme_side(rng) & 0xFFFF, _extreme_side(rng) & 0xFFFF)
        segments[frame_index] = frame_marker, frame[:1] + size + frame[5:]
    elif change == 1:
        segments[frame_index] = rng.choice((0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC9, 0xCA, 0xCF)), frame
    elif change == 2 and content:
        change_bytes = _flip_bits if rng.random() < 0.5 else _overwrite
        segments[index] = marker, change_bytes(rng, content)
    elif change == 3:
        del segments[index]
    elif change == 4:
        segments.insert(index, (rng.randrange(0xC0, 0xFF), rng.randbytes(rng.choice((0, 1, 30, 3000)))))
    else:
        segments.append((0xDD, struct.pack(">H", rng.choice((0, 1, 2, 65535)))))
    parts = (b"\xff" + bytes([m]) + struct.pack(">H", (len(c) + 2) & 0xFFFF) + c for m, c in segments)
    return data[:2] + b"".join(parts) + scans


TIFF_TAGS = (
    *(256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317),
    *(320, 322, 323, 324, 325, 330, 338, 339, 347, 700, 34665),
)


def _change_tiff_entries(rng: random.Random, data: bytes) -> bytes:
    """Change entries of the first directory."""
    order = "<" if data[:2] == b"II" else ">"
    start = struct.unpack_from(f"{order}I", data, 4)[0]
    count = struct.unpack_from(f"{order}H", data, start)[0]
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        entry = start + 2 + 12 * rng.randrange(count)
        tag, type_, length, value = struct.unpack_from(f"{order}HHII", changed, entry)
        change = rng.randrange(4)
        if change == 0:
            tag = rng.choice(TIFF_TAGS)
        elif change == 1:
            type_ = rng.choice((0, 1, 2, 3, 4, 5, 7, 11, 12, 13, 16, 99))
        elif change == 2:
            length = rng.choice((0, 1, 2, 3, 1000, 1 << 16, 1 << 28, (1 << 32) - 1))
        else:
            small_values = (0, 1, 2, 3, 5, 6, 7, 8, 16, 32, 64, 32773, 8)
            value = rng.choice((*small_values, start, len(data), _extreme_side(rng), (1 << 32) - 1))
        struct.pack_into(f"{order}HHII", changed, entry, tag, type_, length, value)
    return bytes(changed)


BMP_FIELDS = (  # offset and size in bytes
    *((2, 4), (10, 4), (14, 4), (18, 4), (22, 4), (26, 2)),
    *((28, 2), (30, 4), (34, 4), (46, 4), (50, 4)),
)


def _change_bmp_header(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3))):
        offset, size = rng.choice(BMP_FIELDS)
        small_values = (0, 1, 2, 3, 4, 8, 12, 16, 24, 32, 40, 64, 108, 124)
        value = rng.choice((*small_values, _extreme_side(rng), (1 << 32) - 80, (1 << 32) - 1))
        changed[offset : offset + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    return bytes(changed)


def _change_gif_sizes(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    frames = [m.start() for m in re.finditer(rb"\x2c....", data, re.DOTALL)][:3]
    offsets = [6, 8, 10, 11] + [start + offset for start in frames for offset in (1, 3, 5, 7, 9, 10)]
    for _ in range(rng.choice((1, 1, 3))):
        offset = rng.choice(offsets)
        value = rng.choice((0, 1, 2, 255, 4096, 65535, rng.getrandbits(16)))
        changed[offset : offset + 2] = struct.pack("<H", value)
    return bytes(changed)


def _change_webp_chunks(rng: random.Random, data: bytes) -> bytes:
    """Change chunks: sizes of canvas and frames, flags, order."""
    chunks = []
    offset = 12
    while offset + 8 <= len(data):
        length = int.from_bytes(data[offset + 4 : offset + 8], "little")
        chunks.append((data[offset : offset + 4], bytearray(data[offset + 8 : offset + 8 + length])))
        offset += 8 + length + length % 2
    change = rng.randrange(4)
    name, content = chunks[rng.randrange(len(chunks))]
    if change == 0 and name in (b"VP8X", b"ANMF") and len(content) >= 12:
        start = 4 if name == b"VP8X" else 6
        content[start : start + 3] = rng.choice((0, 79, 16_382, 65_535, (1 << 24) - 1)).to_bytes(3, "little")
        content[start + 3 : start + 6] = rng.choice((0, 59, 16_382, 65_535, (1 << 24) - 1)).to_bytes(
            3, "little"
        )
    elif change == 1 and content:
        content[rng.randrange(min(len(content), 16))] = rng.randrange(256)
    elif change == 2:
        width = rng.choice((0, 79, 9_999, 16_382, 65_535)).to_bytes(3, "little")
        height = rng.choice((0, 59, 9_999, 16_382)).to_bytes(3, "little")
        flags = bytes([rng.choice((0, 2, 0x10, 0x12, 0x3E))])
        chunks.insert(0, (b"VP8X", bytearray(flags + bytes(3) + width + height)))
    else:
        chunks.insert(rng.randrange(len(chunks) + 1), (name, content))
    body = b"".join(n + struct.pack("<I", len(c)) + c + b"\0" * (len(c) % 2) for n, c in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


STRUCTURE_CHANGES: dict[str, Change] = {
    "png": _change_png_chunks,
    "jpeg": _change_jpeg_segments,
    "tiff": _change_tiff_entries,
    "bmp": _change_bmp_header,
    "gif": _change_gif_sizes,
    "webp": _change_webp_chunks,
}


# Small files that decode to huge images


PNG_COLOR_TYPES_AND_DEPTHS = (
    *((0, 1), (0, 8), (0, 16), (2, 8), (2, 16)),
    *((3, 1), (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)),
)


def _png_bomb(rng: random.Random) -> bytes:
    """A huge number of pixels in some kilobytes, of any bit depth and colour type, near the largest size that
    is read."""
    color_type, depth = rng.choice(PNG_COLOR_TYPES_AND_DEPTHS)
    side = rng.choice((3000, 9_990, 12_000, 60_000))
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color_type]
    row_bytes = 1 + (side * depth * channels + 7) // 8
    content = compressed_zeros(min(row_bytes * side, rng.choice((1 << 16, 1 << 26, 1 << 30))))
    palette = _png_chunk(b"PLTE", bytes(3 * 2)) if color_type == 3 else b""
    header = struct.pack(">IIBBBBB", side, side, depth, color_type, 0, 0, rng.choice((0, 0, 1)))
    chunks = (_png_chunk(b"IHDR", header), palette, _png_chunk(b"IDAT", content), _png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@cache
def compressed_zeros(count: int) -> bytes:
    """`count` zero bytes, compressed a megabyte at a time."""
    compressor = zlib.compressobj(9)
    block = bytes(1 << 20)
    blocks = [compressor.compress(block) for _ in range(count >> 20)]
    remainder = compressor.compress(bytes(count & ((1 << 20) - 1)))
    return b"".join([*blocks, remainder, compressor.flush()])


def _text_bomb(rng: random.Random) -> bytes:
    """A valid PNG with text, or a colour profile, that decompresses to a hundred megabytes."""
    data = encode("PNG")
    name, prefix = rng.choice(((b"zTXt", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0"), (b"iCCP", b"k\0\0")))
    bombs = _png_chunk(name, prefix + compressed_zeros(100 << 20)) * rng.choice((1, 20))
    return data[:33] + bombs + data[33:]


def _many_scans(rng: random.Random) -> bytes:
    """A progressive JPEG of very many scans, each of a full large image."""
    image = Image.new("L", (rng.choice((64, 2000, 9_000)),) * 2)
    data = encode("JPEG", image, progressive=True)
    starts = [m.start() for m in re.finditer(rb"\xff\xda", data)]
    last_scan = data[starts[-1] : -2]
    return data[:-2] + last_scan * rng.choice((10, 1000, 5000)) + data[-2:]


def _jpeg_of_huge_size(rng: random.Random) -> bytes:
    """A small JPEG, baseline or progressive, whose header claims a huge size."""
    data = bytearray(encode("JPEG", progressive=rng.random() < 0.5))
    offset = next(m.start() for m in re.finditer(rb"\xff[\xc0\xc2]\x00\x11", data)) + 5
    height = rng.choice((9_000, 10_000, 65_500))
    width = rng.choice((9_000, 9_999, 65_500))
    data[offset : offset + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def _gif_bomb(rng: random.Random) -> bytes:
    """A large canvas with very many empty frames."""
    side = rng.choice((100, 9_990, 65_535))
    control = b"\x21\xf9\x04\x00\x01\x00\x00\x00"
    frame = control + b"\x2c" + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x44\x01\x00"
    header = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6)
    return header + frame * rng.choice((1, 1000, 20_000)) + b";"


def _tiff_bomb(rng: random.Random) -> bytes:
    """One strip that decompresses to a large image, a directory that points at itself, or very many
    strips."""
    kind = rng.randrange(3)
    side = rng.choice((9_990, 12_000))
    bits, channels = rng.choice(((8, 1), (8, 3), (16, 1), (32, 1), (8, 4)))
    image_bytes = side * side * channels * bits // 8
    content = compressed_zeros(min(image_bytes, 1 << 29)) if kind == 0 else b"\0" * 100
    directory = {
        256: (4, 1, side),
        257: (4, 1, side),
        258: (3, 1, bits),
        259: (3, 1, 8 if kind == 0 else 1),
        262: (3, 1, 2 if channels >= 3 else 1),
    }
    directory |= {273: (4, 1, 8), 277: (3, 1, channels), 278: (4, 1, side), 279: (4, 1, len(content))}
    if bits == 32:
        directory[339] = (3, 1, 3)
    if kind == 2:
        directory |= {278: (4, 1, 1), 273: (4, (1 << 28) - 1, 8), 279: (4, (1 << 28) - 1, 8)}
    start = 8 + len(content)
    entries = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(directory.items()))
    next_directory = start if kind == 1 else 0
    return b"".join(
        [
            b"II*\0",
            struct.pack("<I", start),
            content,
            struct.pack("<H", len(directory)),
            entries,
            struct.pack("<I", next_directory),
        ]
    )


def _webp_bomb(rng: random.Random) -> bytes:
    """A large image of one colour in few bytes, lossless or not, or such an animation."""
    return _large_webp(rng.choice((9_990, 16_383)), rng.random() < 0.5, rng.random() < 0.5)


@cache
def _large_webp(side: int, lossless: bool, animated: bool) -> bytes:
    height = min(side, 9_990) if lossless else 2000
    options: dict[str, Any] = {"lossless": lossless, "quality": 0, "method": 0}
    if animated:
        options |= {"save_all": True, "append_images": [Image.new("RGB", (side, height), "red")]}
    return encode("WEBP", Image.new("RGB", (side, height)), **options)


def _bmp_bomb(rng: random.Random) -> bytes:
    """Run lengths of few bytes for a large image."""
    side = rng.choice((9_990, 60_000))
    content = b"\xff\0" * rng.choice((10, 100_000)) + b"\0\1"
    header = struct.pack("<IiiHHIIIIII", 40, side, side, 1, 8, 1, len(content), 0, 0, 0, 0)
    file_header = b"BM" + struct.pack("<IHHI", 54 + 1024 + len(content), 0, 0, 54 + 1024)
    return file_header + header + bytes(1024) + content


BOMBS: tuple[Callable[[random.Random], bytes], ...] = (
    _png_bomb,
    _png_bomb,
    _text_bomb,
    _many_scans,
    _jpeg_of_huge_size,
    _gif_bomb,
    _tiff_bomb,
    _webp_bomb,
    _bmp_bomb,
)
