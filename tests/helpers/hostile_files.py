"""Cases: number -> (what reads it, what was done to it, its bytes). The same number always gives the same bytes."""

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
from helpers.damage import encode, picture

CASES = 10_000
MOST_PIXELS = 100_000_000  # an image of more is refused: hostile headers aim on both sides of it


class Case(NamedTuple):
    reader: str  # model, weights or image
    what: str
    data: bytes


def case(number: int) -> Case:
    rng = random.Random(number)
    make = rng.choices((_model, _weights, _image), (4, 2, 5))[0]
    return make(rng)


# What is done to the bytes of any file


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def _flip(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 5, 50))):
        out[_place(rng, out)] ^= 1 << rng.randrange(8)
    return bytes(out)


def _overwrite(rng: random.Random, data: bytes) -> bytes:
    start, length = _place(rng, data), rng.choice((1, 2, 4, 16, 256))
    filler = rng.choice((b"\0", b"\xff", None))
    return data[:start] + (rng.randbytes(length) if filler is None else filler * length) + data[start + length :]


def _field(rng: random.Random, data: bytes) -> bytes:
    """A number somewhere, most likely in the header, becomes extreme."""
    size = rng.choice((1, 2, 4, 8))
    value = rng.choice((0, 1, 2, (1 << 8 * size - 1) - 1, 1 << 8 * size - 1, (1 << 8 * size) - 1, rng.getrandbits(8 * size)))
    start = _place(rng, data)
    return data[:start] + value.to_bytes(size, rng.choice(("big", "little"))) + data[start + size :]


def _insert(rng: random.Random, data: bytes) -> bytes:
    start = _place(rng, data)
    return data[:start] + rng.randbytes(rng.choice((1, 7, 300))) + data[start:]


def _delete(rng: random.Random, data: bytes) -> bytes:
    start = _place(rng, data)
    return data[:start] + data[start + rng.choice((1, 7, 300)) :]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start, end = sorted((_place(rng, data), rng.randrange(len(data))))
    return data[:end] + data[start:end] * rng.choice((1, 2, 20)) + data[end:]


def _place(rng: random.Random, data: bytes | bytearray) -> int:
    """Half of the time among the first bytes, where headers are."""
    return rng.randrange(min(len(data), 64) if rng.random() < 0.5 else len(data))


ANYWHERE: tuple[Callable[[random.Random, bytes], bytes], ...] = (_cut, _flip, _overwrite, _field, _insert, _delete, _repeat)


# Values that no field expects


def _value(rng: random.Random) -> Any:
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
    simple += ["", "a", "resnet50", "\x1b]52;c;aGk=\x07", "\x00", "é" * 500, "x" * 100_000, "../../etc/passwd", "NaN"]
    made: list[Callable[[], Any]] = [
        lambda: rng.choice(simple),
        lambda: rng.choice(simple),
        lambda: [rng.choice(simple) for _ in range(rng.choice((0, 1, 2, 3, 1000)))],
        lambda: {str(rng.choice(simple)): rng.choice(simple) for _ in range(rng.choice((0, 1, 3)))},
        lambda: _nested(rng.choice((3, 100, 5000))),
    ]
    return rng.choice(made)()


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def _json(value: Any) -> bytes:
    """As json.dumps, which nested lists would exhaust."""
    if isinstance(value, dict):
        return b"{" + b",".join(json.dumps(str(k)).encode() + b":" + _json(v) for k, v in value.items()) + b"}"
    depth = 0
    while isinstance(value, list) and len(value) == 1:
        value, depth = value[0], depth + 1
    inner = b"[" + b",".join(_json(v) for v in value) + b"]" if isinstance(value, list) else json.dumps(value).encode()
    return b"[" * depth + inner + b"]" * depth


def _change(rng: random.Random, tree: Any) -> None:
    """One value somewhere in a document becomes another, goes, or comes twice under other names."""
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
        node[key] = _value(rng)
    elif action < 0.9 or isinstance(node, list):
        del node[key]
    else:
        node[f"{key}x"] = node[key]


# Our own model files


@cache
def _classifiers() -> tuple[bytes, ...]:
    """Sealed files of three small networks."""
    found = []
    size = 32
    for name, width in (("lenet5", 0.5), ("resnet20_cifar", 0.125), ("vgg11_bn", 0.02)):
        torch.manual_seed(0)
        model = models.create_model(name, num_classes=4, in_chans=3, image_size=(size, size), width=width)
        assert model.architecture is not None
        card = ClassifierMetadata(
            format=FORMAT,
            network=model.architecture,
            classes=("bird", "flower", "fruit", "vehicle"),
            preprocessing=fixed_size_preprocessing(3, (28, 28), (size, size)),
            precision="fp32",
            batch=4,
            provenance={"run": "0" * 64, "data": "digits", "seed": 0},
            metrics={"test_top1": 90.0},
        )
        tensors = dict(model.state_dict()) | {f"preprocessing.{what}": torch.full((3, 1, 1), 0.5) for what in ("mean", "std")}
        found.append(checked_safetensors.serialize(tensors, card))
    return tuple(found)


def _split(data: bytes) -> tuple[Any, bytes]:
    """(header, the tensors' bytes)."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _join(header: bytes, rest: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + rest


def _resealed(data: bytes) -> bytes:
    """With a hash that is right, as whoever tampers with a file would make it."""
    found = re.search(rb'"sha256": ?"([^"]{64})"', data)
    if found is None:
        return data
    zeroed = data[: found.start(1)] + b"0" * 64 + data[found.end(1) :]
    return zeroed[: found.start(1)] + hashlib.sha256(zeroed).hexdigest().encode() + zeroed[found.end(1) :]


def _document(rng: random.Random, data: bytes) -> bytes:
    """The card tampered with."""
    header, rest = _split(data)
    card = json.loads(header["__metadata__"]["convatlas"])
    for _ in range(rng.choice((1, 1, 2, 4))):
        _change(rng, card)
    header["__metadata__"]["convatlas"] = _json(card).decode()
    return _join(_json(header), rest)


def _network(rng: random.Random, data: bytes) -> bytes:
    """Another network, or arguments and a geometry that agree with each other and not with sense."""
    header, rest = _split(data)
    card = json.loads(header["__metadata__"]["convatlas"])
    name = rng.choice(models.list_models())
    huge = rng.choice((0, 1, 1 << 12, 1 << 16, 1 << 31, 1 << 40, 10**9))
    what = rng.randrange(5)
    if what == 0:
        card["network"] = json.loads(json.dumps(vars_of(name)))
    elif what == 1:
        card["network"]["arguments"]["width"] = rng.choice((1e-9, 1e3, 1e6, 1e12, 1e300, float(huge)))
    elif what == 2:
        card["network"]["arguments"]["num_classes"] = huge
        card["classes"] = [str(i) for i in range(min(huge, 20_000))]
    elif what == 3:
        side = [huge, rng.choice((huge, 32))]
        card["network"]["arguments"]["image_size"] = side
        card["preprocessing"]["size"] = card["preprocessing"]["source"] = side
        card["preprocessing"]["fit"] = rng.choice(("none", "pad", "resize", "crop"))
    else:
        card["preprocessing"] |= {
            "source": [rng.choice((0, -1, 1, 28, 32, 40, huge)) for _ in "hw"],
            "size": [rng.choice((0, -1, 1, 28, 32, 32, huge)) for _ in "hw"],
            "channels": rng.choice((3, 3, 3, 0, 1, 2, huge)),
            "fit": rng.choice(("none", "pad", "resize", "crop")),
        }
    header["__metadata__"]["convatlas"] = json.dumps(card)
    return _join(_json(header), rest)


@cache
def vars_of(name: str) -> dict[str, Any]:
    architecture = models.get_architecture(name)
    return {"name": architecture.name, "edition": architecture.edition, "arguments": architecture.arguments}


def _header(rng: random.Random, data: bytes) -> bytes:
    """The header of safetensors tampered with: types, shapes, offsets, names."""
    header, rest = _split(data)
    what = rng.randrange(9)
    names = [name for name in header if name != "__metadata__"]
    name, other = rng.sample(names, 2)
    if what == 0:
        header[name]["dtype"] = rng.choice(("F64", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "F4", "C64", "X", "", 7))
    elif what == 1:
        header[name]["shape"] = [rng.choice((0, 1, -1, 1 << 20, 1 << 31, 1 << 62, 2**64)) for _ in range(rng.choice((0, 1, 4, 100)))]
    elif what == 2:
        header[name]["data_offsets"] = [rng.choice((0, 1, -8, 1 << 40, 2**64 - 1, len(rest))) for _ in range(rng.choice((1, 2, 2, 2, 3)))]
    elif what == 3:
        header[name]["data_offsets"] = header[other]["data_offsets"]
    elif what == 4:
        del header[name]
    elif what == 5:
        header[name[::-1]] = header[name]
    elif what == 6:
        header["__metadata__"][str(rng.choice(("a", "format", "", "convatlas2")))] = _value(rng)
    elif what == 7:
        start = len(rest)
        header |= {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [start, start]} for i in range(rng.choice((1, 1000, 50_000)))}
    else:
        _change(rng, header)
    return _join(_json(header), rest)


def _bytes_of_header(rng: random.Random, data: bytes) -> bytes:
    """Its text tampered with: invalid UTF-8, nesting, duplicate keys, spaces."""
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    what = rng.randrange(6)
    start = rng.randrange(1, len(header))
    if what == 0:
        header = header[:start] + rng.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\0", b"\\ud800", b"\\u0000")) + header[start:]
    elif what == 1:
        depth = rng.choice((10, 1000, 100_000))
        header = b'{"deep":' + b'{"a":' * depth + b"1" + b"}" * depth + b"," + header[1:]
    elif what == 2:
        header = b"{" + header[1:-1] + b"," + header[1:]
    elif what == 3:
        header += b" " * rng.choice((1, 100_000, 9 << 20))
    elif what == 4:
        header = header.replace(b":", b": ")
    else:
        header = _flip(rng, header)
    return _join(header, rest)


def _values(rng: random.Random, data: bytes) -> bytes:
    """Weights that are no numbers."""
    header, rest = _split(data)
    name = rng.choice([name for name in header if name != "__metadata__"])
    start = header[name]["data_offsets"][0]
    odd = rng.choice((float("nan"), float("inf"), -float("inf"), 3e38))
    rest = rest[:start] + struct.pack("<f", odd) + rest[start + 4 :]
    return _join(data[8 : 8 + int.from_bytes(data[:8], "little")], rest)


def _length(rng: random.Random, data: bytes) -> bytes:
    """The header's length, the first thing that is read."""
    length = int.from_bytes(data[:8], "little")
    near = [0, 1, 2, length - 1, length + 1, len(data) - 8, len(data) - 7, 8 << 20, 100_000_000, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]
    return rng.choice(near).to_bytes(8, "little") + data[8:]


TAMPERED = (_document, _document, _document, _network, _network, _header, _header, _bytes_of_header, _values, _length)


def _model(rng: random.Random) -> Case:
    data = rng.choice(_classifiers())
    if rng.random() < 0.25:
        change = rng.choice(ANYWHERE)
        out = change(rng, data)
        return Case("model", f"bytes:{change.__name__[1:]}", _resealed(out) if rng.random() < 0.5 else out)
    tamper = rng.choice(TAMPERED)
    return Case("model", f"sealed:{tamper.__name__[1:]}", _resealed(tamper(rng, data)))


# Other libraries' weight files


@cache
def _foreign() -> tuple[tuple[str, bytes], ...]:
    torch.manual_seed(0)
    tensors = dict(models.create_model("lenet5", width=0.5).state_dict())
    found = [("safetensors", safetensors.torch.save(tensors))]
    for what, zipped in (("pth", True), ("old pth", False)):
        buffer = io.BytesIO()
        torch.save({"state_dict": tensors, "epoch": 3}, buffer, _use_new_zipfile_serialization=zipped)
        found.append((what, buffer.getvalue()))
    return tuple(found)


def _weights(rng: random.Random) -> Case:
    kind, data = rng.choice(_foreign())
    if kind == "safetensors" and rng.random() < 0.6:
        tamper = rng.choice((_plain_header, _bytes_of_header, _length, _values))
        return Case("weights", f"{kind}:{tamper.__name__[1:]}", tamper(rng, data))
    if kind != "safetensors" and rng.random() < 0.6:
        return Case("weights", f"{kind}:pickle", _pickle(rng, data))
    change = rng.choice(ANYWHERE)
    return Case("weights", f"{kind}:{change.__name__[1:]}", change(rng, data))


def _plain_header(rng: random.Random, data: bytes) -> bytes:
    header, rest = _split(data)
    header["__metadata__"] = {}
    return _header(rng, _join(_json(header), rest))


def _pickle(rng: random.Random, data: bytes) -> bytes:
    """Opcodes and numbers of a pickle tampered with, the archive around it whole: its readers check no sum."""
    start = data.find(b"\x80\x02")
    end = data.find(b".", data.find(b"epoch", start))
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(start, end)
        if rng.random() < 0.5:
            out[place] = rng.choice(b"(.0l2Q]}aehijJKMNoptRrsubcBCXTUG\x80\x81\x82\x85\x86\x87\x88\x8a\x8b\x8d\x8e\x93\x94\x95\x96")
        else:
            number = rng.choice((0, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32)))
            size = max(1, (number.bit_length() + 7) // 8)
            out[place : place + size] = number.to_bytes(size, "little")
    return bytes(out)


# Images


@cache
def _pictures() -> tuple[tuple[str, bytes], ...]:
    """Every format that is read, in the kinds that people have."""
    colour = picture()
    grey, small = colour.convert("L"), colour.resize((40, 30))
    clear = colour.convert("RGBA")
    clear.putalpha(grey)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0comment"
    frames = {"save_all": True, "append_images": [small.resize(colour.size), grey.convert("RGB")], "duration": 50}
    kinds: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("JPEG", colour, {}),
        ("JPEG", colour, {"progressive": True, "exif": exif}),
        ("JPEG", grey, {"quality": 30}),
        ("JPEG", colour.convert("CMYK"), {}),
        ("JPEG", colour, {"subsampling": 0, "comment": b"c" * 100, "icc_profile": bytes(200)}),
        ("PNG", colour, {}),
        ("PNG", colour.convert("P"), {}),
        ("PNG", clear, {"exif": exif}),
        ("PNG", deep, {}),
        ("PNG", colour.convert("1"), {}),
        ("WEBP", colour, {"exif": exif}),
        ("WEBP", colour, {"lossless": True}),
        ("WEBP", clear, {}),
        ("WEBP", colour, frames),
        ("BMP", colour, {}),
        ("BMP", colour.convert("P"), {}),
        ("GIF", colour, {}),
        ("GIF", colour, frames),
        ("TIFF", colour, {"exif": exif}),
        ("TIFF", colour, {"compression": "tiff_lzw"}),
        ("TIFF", colour, {"compression": "tiff_adobe_deflate"}),
        ("TIFF", colour, {"compression": "jpeg"}),
        ("TIFF", colour, {"compression": "packbits"}),
        ("TIFF", colour.convert("1"), {"compression": "group4"}),
        ("TIFF", deep, {}),
        ("TIFF", grey.convert("F"), {}),
        ("TIFF", clear, {"save_all": True, "append_images": [colour]}),
    ]
    return tuple((kind.lower(), encode(kind, image, **options)) for kind, image, options in kinds)


def _image(rng: random.Random) -> Case:
    kind, data = rng.choice(_pictures())
    if rng.random() < 0.12:
        bomb = rng.choice(BOMBS)
        return Case("image", f"bomb:{bomb.__name__[1:]}", bomb(rng))
    if kind in STRUCTURED and rng.random() < 0.55:
        return Case("image", f"{kind}:structure", STRUCTURED[kind](rng, data))
    if rng.random() < 0.08:
        other = rng.choice(_pictures())[1]
        return Case("image", f"{kind}:spliced", data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :])
    change = rng.choice(ANYWHERE)
    return Case("image", f"{kind}:{change.__name__[1:]}", change(rng, data))


def _side(rng: random.Random) -> int:
    return rng.choice((0, 1, 2, 60, 80, 1000, 9_999, 16_383, 30_000, 65_535, 1 << 20, (1 << 31) - 1, 1 << 31))


def _png_structure(rng: random.Random, data: bytes) -> bytes:
    """Chunks tampered with, their sums right: what is inside is read."""
    chunks, place = [], 8
    while place + 8 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    what = rng.randrange(5)
    at = rng.randrange(len(chunks))
    if what == 0:
        header = bytearray(chunks[0][1])
        header[0:8] = struct.pack(">II", _side(rng), _side(rng))
        chunks[0] = b"IHDR", bytes(header)
    elif what == 1:
        header = bytearray(chunks[0][1])
        header[rng.randrange(8, 13)] = rng.randrange(256) if rng.random() < 0.3 else rng.choice((0, 1, 2, 3, 4, 6, 8, 16))
        chunks[0] = b"IHDR", bytes(header)
    elif what == 2:
        chunks[at] = chunks[at][0], (_flip if rng.random() < 0.5 else _overwrite)(rng, chunks[at][1] or b"\0")
    elif what == 3:
        name = rng.choice(
            (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"PLTE", b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"gAMA", b"pHYs", b"sRGB")
        )
        chunks.insert(rng.randrange(1, len(chunks)), (name, rng.randbytes(rng.choice((0, 1, 4, 26, 300)))))
    else:
        chunks.insert(at, chunks.pop(rng.randrange(len(chunks))))
    return data[:8] + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _jpeg_structure(rng: random.Random, data: bytes) -> bytes:
    """Segments tampered with, their lengths right."""
    segments, place = [], 2
    while data[place + 1] != 0xDA:
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        segments.append((data[place + 1], data[place + 4 : place + 2 + length]))
        place += 2 + length
    rest = data[place:]
    at = rng.randrange(len(segments))
    marker, content = segments[at]
    frame = next(i for i, (m, _) in enumerate(segments) if m in (0xC0, 0xC1, 0xC2))
    what = rng.randrange(6)
    if what == 0:
        size = struct.pack(">HH", _side(rng) & 0xFFFF, _side(rng) & 0xFFFF)
        segments[frame] = segments[frame][0], segments[frame][1][:1] + size + segments[frame][1][5:]
    elif what == 1:
        segments[frame] = rng.choice((0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC9, 0xCA, 0xCF)), segments[frame][1]
    elif what == 2 and content:
        segments[at] = marker, (_flip if rng.random() < 0.5 else _overwrite)(rng, content)
    elif what == 3:
        del segments[at]
    elif what == 4:
        segments.insert(at, (rng.randrange(0xC0, 0xFF), rng.randbytes(rng.choice((0, 1, 30, 3000)))))
    else:
        segments.append((0xDD, struct.pack(">H", rng.choice((0, 1, 2, 65535)))))
    out = b"".join(b"\xff" + bytes([m]) + struct.pack(">H", (len(c) + 2) & 0xFFFF) + c for m, c in segments)
    return data[:2] + out + rest


def _tiff_structure(rng: random.Random, data: bytes) -> bytes:
    """Entries of its first directory tampered with."""
    order = "<" if data[:2] == b"II" else ">"
    start = struct.unpack_from(f"{order}I", data, 4)[0]
    count = struct.unpack_from(f"{order}H", data, start)[0]
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        entry = start + 2 + 12 * rng.randrange(count)
        tag, type_, n, value = struct.unpack_from(f"{order}HHII", out, entry)
        what = rng.randrange(4)
        if what == 0:
            tag = rng.choice(
                (256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 330, 338, 339, 347, 700, 34665)
            )
        elif what == 1:
            type_ = rng.choice((0, 1, 2, 3, 4, 5, 7, 11, 12, 13, 16, 99))
        elif what == 2:
            n = rng.choice((0, 1, 2, 3, 1000, 1 << 16, 1 << 28, (1 << 32) - 1))
        else:
            value = rng.choice((0, 1, 2, 3, 5, 6, 7, 8, 16, 32, 64, 32773, 8, start, len(data), _side(rng), (1 << 32) - 1))
        struct.pack_into(f"{order}HHII", out, entry, tag, type_, n, value)
    return bytes(out)


def _bmp_structure(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 3))):
        place, size = rng.choice(((2, 4), (10, 4), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 4), (34, 4), (46, 4), (50, 4)))
        value = rng.choice((0, 1, 2, 3, 4, 8, 12, 16, 24, 32, 40, 64, 108, 124, _side(rng), (1 << 32) - 80, (1 << 32) - 1))
        out[place : place + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    return bytes(out)


def _gif_structure(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    frames = [m.start() for m in re.finditer(rb"\x2c....", data, re.DOTALL)][:3]
    places = [6, 8, 10, 11] + [start + offset for start in frames for offset in (1, 3, 5, 7, 9, 10)]
    for _ in range(rng.choice((1, 1, 3))):
        place = rng.choice(places)
        out[place : place + 2] = struct.pack("<H", rng.choice((0, 1, 2, 255, 4096, 65535, rng.getrandbits(16))))
    return bytes(out)


def _webp_structure(rng: random.Random, data: bytes) -> bytes:
    """Chunks tampered with: sizes of canvas and frames, flags, order."""
    chunks, place = [], 12
    while place + 8 <= len(data):
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        chunks.append((data[place : place + 4], bytearray(data[place + 8 : place + 8 + length])))
        place += 8 + length + length % 2
    what = rng.randrange(4)
    name, content = chunks[rng.randrange(len(chunks))]
    if what == 0 and name in (b"VP8X", b"ANMF") and len(content) >= 12:
        start = 4 if name == b"VP8X" else 6
        content[start : start + 3] = rng.choice((0, 79, 16_382, 65_535, (1 << 24) - 1)).to_bytes(3, "little")
        content[start + 3 : start + 6] = rng.choice((0, 59, 16_382, 65_535, (1 << 24) - 1)).to_bytes(3, "little")
    elif what == 1 and content:
        content[rng.randrange(min(len(content), 16))] = rng.randrange(256)
    elif what == 2:
        canvas = rng.choice((0, 79, 9_999, 16_382, 65_535)).to_bytes(3, "little") + rng.choice((0, 59, 9_999, 16_382)).to_bytes(3, "little")
        chunks.insert(0, (b"VP8X", bytearray(bytes([rng.choice((0, 2, 0x10, 0x12, 0x3E))]) + bytes(3) + canvas)))
    else:
        chunks.insert(rng.randrange(len(chunks) + 1), (name, content))
    body = b"".join(n + struct.pack("<I", len(c)) + c + b"\0" * (len(c) % 2) for n, c in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


STRUCTURED: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "png": _png_structure,
    "jpeg": _jpeg_structure,
    "tiff": _tiff_structure,
    "bmp": _bmp_structure,
    "gif": _gif_structure,
    "webp": _webp_structure,
}


# Small files that ask for much


def _png_bomb(rng: random.Random) -> bytes:
    """Pixels without number in some kilobytes, of any depth and colour, just below what is read or above."""
    colour, depth = rng.choice(((0, 1), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)))
    side = rng.choice((3000, 9_990, 12_000, 60_000))
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = 1 + (side * depth * channels + 7) // 8
    content = zeros(min(row * side, rng.choice((1 << 16, 1 << 26, 1 << 30))))
    palette = _chunk(b"PLTE", bytes(3 * 2)) if colour == 3 else b""
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, rng.choice((0, 0, 1)))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + palette + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")


@cache
def zeros(count: int) -> bytes:
    """So many zeros, compressed a megabyte at a time."""
    packer, block = zlib.compressobj(9), bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(count >> 20)]
    return b"".join([*parts, packer.compress(bytes(count & ((1 << 20) - 1))), packer.flush()])


def _text_bomb(rng: random.Random) -> bytes:
    """A sound PNG with text, or a colour profile, that unpacks to a hundred megabytes."""
    data = encode("PNG")
    name, head = rng.choice(((b"zTXt", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0"), (b"iCCP", b"k\0\0")))
    bombs = _chunk(name, head + zeros(100 << 20)) * rng.choice((1, 20))
    return data[:33] + bombs + data[33:]


def _scans(rng: random.Random) -> bytes:
    """A progressive JPEG of very many scans, each over all of a large picture."""
    image = Image.new("L", (rng.choice((64, 2000, 9_000)),) * 2)
    data = encode("JPEG", image, progressive=True)
    starts = [m.start() for m in re.finditer(rb"\xff\xda", data)]
    last = data[starts[-1] : -2]
    return data[:-2] + last * rng.choice((10, 1000, 5000)) + data[-2:]


def _large_jpeg(rng: random.Random) -> bytes:
    """A small JPEG that says that it is large, baseline or progressive."""
    data = bytearray(encode("JPEG", progressive=rng.random() < 0.5))
    place = next(m.start() for m in re.finditer(rb"\xff[\xc0\xc2]\x00\x11", data)) + 5
    data[place : place + 4] = struct.pack(">HH", rng.choice((9_000, 10_000, 65_500)), rng.choice((9_000, 9_999, 65_500)))
    return bytes(data)


def _gif_bomb(rng: random.Random) -> bytes:
    """A large canvas; very many frames of nothing."""
    side = rng.choice((100, 9_990, 65_535))
    frame = b"\x21\xf9\x04\x00\x01\x00\x00\x00\x2c" + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6) + frame * rng.choice((1, 1000, 20_000)) + b";"


def _tiff_bomb(rng: random.Random) -> bytes:
    """One strip that unpacks to a large picture; directories that never end; very many strips."""
    what, side = rng.randrange(3), rng.choice((9_990, 12_000))
    bits, channels = rng.choice(((8, 1), (8, 3), (16, 1), (32, 1), (8, 4)))
    content = zeros(min(side * side * channels * bits // 8, 1 << 29)) if what == 0 else b"\0" * 100
    bytes_ = {
        256: (4, 1, side),
        257: (4, 1, side),
        258: (3, 1, bits),
        259: (3, 1, 8 if what == 0 else 1),
        262: (3, 1, 2 if channels >= 3 else 1),
    }
    bytes_ |= {273: (4, 1, 8), 277: (3, 1, channels), 278: (4, 1, side), 279: (4, 1, len(content))}
    if bits == 32:
        bytes_[339] = (3, 1, 3)
    if what == 2:
        bytes_[278], bytes_[273], bytes_[279] = (4, 1, 1), (4, (1 << 28) - 1, 8), (4, (1 << 28) - 1, 8)
    start = 8 + len(content)
    entries = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(bytes_.items()))
    after = start if what == 1 else 0
    return b"II*\0" + struct.pack("<I", start) + content + struct.pack("<H", len(bytes_)) + entries + struct.pack("<I", after)


def _webp_bomb(rng: random.Random) -> bytes:
    """A large picture of one colour, lossless or not, in few bytes; the same as an animation."""
    return _large_webp(rng.choice((9_990, 16_383)), rng.random() < 0.5, rng.random() < 0.5)


@cache
def _large_webp(side: int, lossless: bool, animated: bool) -> bytes:
    height = min(side, 9_990) if lossless else 2000
    options: dict[str, Any] = {"save_all": True, "append_images": [Image.new("RGB", (side, height), "red")]} if animated else {}
    return encode("WEBP", Image.new("RGB", (side, height)), lossless=lossless, quality=0, method=0, **options)


def _bmp_bomb(rng: random.Random) -> bytes:
    """Run lengths that say little about much."""
    side = rng.choice((9_990, 60_000))
    content = b"\xff\0" * rng.choice((10, 100_000)) + b"\0\1"
    head = struct.pack("<IiiHHIIIIII", 40, side, side, 1, 8, 1, len(content), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(content), 0, 0, 54 + 1024) + head + bytes(1024) + content


BOMBS: tuple[Callable[[random.Random], bytes], ...] = (
    _png_bomb,
    _png_bomb,
    _text_bomb,
    _scans,
    _large_jpeg,
    _gif_bomb,
    _tiff_bomb,
    _webp_bomb,
    _bmp_bomb,
)
