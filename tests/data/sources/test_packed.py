"""The packed store: it holds what its source holds, and a damaged or unfinished store is refused."""

import json
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convatlas.data import open_dataset
from convatlas.data.curation import pack as packing
from convatlas.data.curation.pack import pack
from convatlas.data.dataset import Dataset, ImageSource
from convatlas.data.transforms.preprocessing import center_crop_preprocessing
from convatlas.errors import UsageError, UserError
from convatlas.storage.atomic import FILE_OPS

RNG = np.random.default_rng(0)


@pytest.fixture
def photos(tmp_path: Path) -> Dataset:
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(20):
            height, width = RNG.integers(40, 90, 2).tolist()
            blobs = Image.fromarray(RNG.integers(0, 256, (6, 8, 3), np.uint8)).resize(
                (width, height), Image.Resampling.BICUBIC
            )
            blobs.save(tmp_path / "photos" / name / f"{i}.jpg", quality=90)
    return open_dataset(f"folder:{tmp_path / 'photos'}")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("files", [False, True])
def test_a_store_holds_the_content_of_its_source(
    photos: Dataset, tmp_path: Path, files: bool, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SHARD_SAMPLES", 7)
    result = pack(photos, tmp_path / "store", shorter=None, files=files, workers=workers)
    assert (result.samples, result.unreadable) == (40, ())
    assert result.size == sum(
        f.stat().st_size for f in (tmp_path / "store").glob("*.bin") if f.name != "index.bin"
    )
    store = open_dataset(f"packed:{tmp_path / 'store'}")
    assert (store.classes, store.channels) == (photos.classes, photos.channels)
    for split_name, split in photos.splits.items():
        packed = store.splits[split_name]
        assert (packed.labels == split.labels).all()
        for i in RNG.permutation(len(split)).tolist():
            image = packed.images.image(i)
            source = split.images.image(i)
            assert (image.decode(3, (0, 0)) == source.decode(3, (source.height, source.width))).all() or files
            assert packed.images.name(i).endswith(split.images.name(i))
        preprocessing = center_crop_preprocessing(3, (40, 40))  # at this size every photo is decoded in full
        assert (
            preprocessing.load_batch(packed.images, np.arange(4))[0]
            == preprocessing.load_batch(split.images, np.arange(4))[0]
        ).all()


def test_images_are_reduced_to_the_shorter_side_and_never_enlarged(photos: Dataset, tmp_path: Path) -> None:
    pack(photos, tmp_path / "store", shorter=50)
    store = open_dataset(f"packed:{tmp_path / 'store'}").splits["train"].images
    for i in range(len(store)):
        packed, source = store.image(i), photos.splits["train"].images.image(i)
        assert min(packed.height, packed.width) == min(50, source.height, source.width)
        assert packed.height / packed.width == pytest.approx(source.height / source.width, rel=0.03)


def test_data_sets_in_memory_can_be_packed_too(tmp_path: Path) -> None:
    digits = open_dataset("digits")
    pack(digits, tmp_path / "store")
    store = open_dataset(f"packed:{tmp_path / 'store'}")
    assert not store.hflip_safe
    for i in range(50):
        expected, pixels = (data.splits["val"].images.image(i).decode(1, (0, 0)) for data in (digits, store))
        assert (pixels == expected).all()
    with pytest.raises(UsageError, match="no image files to pack"):
        pack(digits, tmp_path / "files", files=True)


def test_interrupted_packing_resumes_and_gives_the_same_bytes(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SHARD_SAMPLES", 7)
    pack(photos, tmp_path / "uninterrupted", workers=0)
    real, written = packing._ShardWriter._encode, 0

    def stop_at_thirty(*arguments: object) -> object:
        nonlocal written
        written += 1
        if written == 30:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(packing._ShardWriter, "_encode", stop_at_thirty)
    with pytest.raises(KeyboardInterrupt):
        pack(photos, tmp_path / "store", workers=0)
    with pytest.raises(UserError, match="was not finished: run data pack again"):
        open_dataset(f"packed:{tmp_path / 'store'}")
    (tmp_path / "store" / ".00005.bin.123.tmp").write_bytes(b"of a killed process")
    written = 100
    pack(photos, tmp_path / "store", workers=0)
    assert written == 100 + 40 - 28  # four shards of seven samples were complete
    names = sorted(f.name for f in (tmp_path / "uninterrupted").iterdir())
    assert sorted(f.name for f in (tmp_path / "store").iterdir()) == names
    assert all(
        (tmp_path / "store" / name).read_bytes() == (tmp_path / "uninterrupted" / name).read_bytes()
        for name in names
    )
    written = 100
    assert pack(photos, tmp_path / "store", workers=0).samples == 40
    assert written == 100  # nothing was left to do


def test_a_folder_with_other_content_is_not_overwritten(photos: Dataset, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(UsageError, match="not empty"):
        pack(photos, tmp_path / "full")
    pack(photos, tmp_path / "store")
    with pytest.raises(UsageError, match="holds another packed store"):
        pack(photos, tmp_path / "store", shorter=40)


def test_an_unreadable_image_is_left_out_and_named(photos: Dataset, tmp_path: Path) -> None:
    broken = Path(photos.splits["train"].images.name(3))
    broken.write_bytes(broken.read_bytes()[:200])
    result = pack(photos, tmp_path / "store")
    assert [(u.file, result.samples) for u in result.unreadable] == [(str(broken), 39)]
    assert (
        len(open_dataset(f"packed:{tmp_path / 'store'}").splits["train"]) == len(photos.splits["train"]) - 1
    )


@pytest.mark.parametrize("name", ["manifest.json", "index.bin", "names.jsonl", "00000.bin"])
def test_any_flipped_bit_or_truncation_is_detected(photos: Dataset, tmp_path: Path, name: str) -> None:
    pack(photos, tmp_path / "store", shorter=32)
    file = tmp_path / "store" / name
    content = file.read_bytes()
    used = ("classes", "index_sha256", "names_sha256", "shards", "splits", "channels", "kind")
    places = [int(RNG.integers(8 * len(content))) for _ in range(40)]
    if name == "manifest.json":  # "source" and "shorter" only describe the origin
        places = [8 * (content.index(json.dumps(key).encode()) + 1) for key in used]
    for place in places:
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << (place % 8)
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="store"):
            read_all(tmp_path / "store")
    for length in (0, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(UserError, match="store"):
            read_all(tmp_path / "store")
    file.write_bytes(content)
    read_all(tmp_path / "store")


def read_all(path: Path) -> None:
    for split in open_dataset(f"packed:{path}").splits.values():
        for i in range(len(split)):
            split.images.image(i)


def test_another_version_is_refused_by_name(photos: Dataset, tmp_path: Path) -> None:
    pack(photos, tmp_path / "store")
    file = tmp_path / "store" / "manifest.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(UserError, match="format version 2: this ConvAtlas reads version 1"):
        open_dataset(f"packed:{tmp_path / 'store'}")


def test_a_forged_index_that_points_outside_its_shards_is_refused(photos: Dataset, tmp_path: Path) -> None:
    import hashlib

    from convatlas.data.sources.packed import ENTRY

    pack(photos, tmp_path / "store")
    manifest, index = (tmp_path / "store" / name for name in ("manifest.json", "index.bin"))
    document = json.loads(manifest.read_text())
    del document["sha256"]  # as a forger would, who could also compute it
    text = json.dumps(document)
    content = index.read_bytes()
    for key, value in (
        ("shard", 9),
        ("offset", 1 << 63),
        ("length", (1 << 64) - 1),
        ("label", 2),
        ("split", 7),
        ("height", 1 << 31),
    ):
        entries = np.frombuffer(content, ENTRY).copy()
        entries[key][5] = value
        index.write_bytes(entries.tobytes())
        manifest.write_text(
            text.replace(hashlib.sha256(content).hexdigest(), hashlib.sha256(entries.tobytes()).hexdigest())
        )
        with pytest.raises(UserError, match="does not belong to these shards"):
            open_dataset(f"packed:{tmp_path / 'store'}")


def test_a_full_disk_leaves_no_store_that_seems_complete(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, data: bytes) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(FILE_OPS, "write", full)
    with pytest.raises(OSError, match="No space"):
        pack(photos, tmp_path / "store", workers=0)
    monkeypatch.undo()
    with pytest.raises(UserError):
        open_dataset(f"packed:{tmp_path / 'store'}")
    assert pack(photos, tmp_path / "store", workers=0).samples == 40


@pytest.mark.parametrize("files", [False, True])
def test_a_pickled_store_holds_no_content(photos: Dataset, tmp_path: Path, files: bool) -> None:
    pack(photos, tmp_path / "store", shorter=None, files=files)
    images = open_dataset(f"packed:{tmp_path / 'store'}").splits["train"].images
    before = len(pickle.dumps(images))
    first = images.image(0).decode(3, (0, 0))
    assert len(pickle.dumps(images)) == before
    assert (pickle.loads(pickle.dumps(images)).image(0).decode(3, (0, 0)) == first).all()


def test_a_flipped_bit_anywhere_in_the_manifest_is_named(photos: Dataset, tmp_path: Path) -> None:
    pack(photos, tmp_path / "store", workers=0)
    file = tmp_path / "store" / "manifest.json"
    data = file.read_bytes()
    for bit in range(0, 8 * len(data), 43):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"manifest\.json"):
            open_dataset(f"packed:{tmp_path / 'store'}")


def test_a_store_of_version_0_2_0_whose_manifest_has_no_hash_is_read(photos: Dataset, tmp_path: Path) -> None:
    pack(photos, tmp_path / "store", workers=0)
    before = open_dataset(f"packed:{tmp_path / 'store'}")
    file = tmp_path / "store" / "manifest.json"
    document = json.loads(file.read_bytes())
    del document["sha256"]
    file.write_text(json.dumps(document))
    assert open_dataset(f"packed:{tmp_path / 'store'}").sha256 == before.sha256


def test_a_flipped_bit_anywhere_in_a_finished_shards_record_makes_the_shard_again(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SHARD_SAMPLES", 2)
    monkeypatch.setattr(packing._ShardWriter, "finish", lambda writer: writer)
    writer: Any = pack(photos, tmp_path / "store", workers=0)
    file = writer._record_file(0)
    data = file.read_bytes()
    assert writer.read_record(0) is not None
    for bit in range(0, 8 * len(data), 43):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        assert writer.read_record(0) is None


def test_a_worker_that_is_killed_is_replaced_and_the_store_is_the_same(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SHARD_SAMPLES", 7)
    pack(photos, tmp_path / "expected", workers=0)
    encode = packing._ShardWriter._encode

    def die_once(writer: packing._ShardWriter, images: ImageSource, index: int) -> object:
        if multiprocessing.parent_process() is not None:
            try:
                (tmp_path / "died").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
        return encode(writer, images, index)

    monkeypatch.setattr(packing._ShardWriter, "_encode", die_once)
    pack(photos, tmp_path / "store", workers=2)
    assert (tmp_path / "died").exists()
    for file in (tmp_path / "expected").iterdir():
        if file.name != ".lock":
            assert (tmp_path / "store" / file.name).read_bytes() == file.read_bytes()


def test_workers_that_always_die_end_the_packing(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SHARD_SAMPLES", 7)
    monkeypatch.setattr(packing._ShardWriter, "_encode", lambda *arguments: os._exit(9))
    with pytest.raises(UserError, match="the workers that pack have died 3 times: free some memory"):
        pack(photos, tmp_path / "store", workers=2)


def test_a_second_packing_into_one_folder_is_refused(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = packing._ShardWriter._encode
    refused: list[str] = []

    def pack_meanwhile(writer: packing._ShardWriter, images: ImageSource, index: int) -> object:
        if not refused:
            with pytest.raises(UsageError, match=f"is being written by process {os.getpid()} on ") as error:
                pack(photos, tmp_path / "store", workers=0)
            refused.append(str(error.value))
        return encode(writer, images, index)

    monkeypatch.setattr(packing._ShardWriter, "_encode", pack_meanwhile)
    assert pack(photos, tmp_path / "store", workers=0).samples == 40
    assert refused


def test_workers_end_with_a_packing_that_is_killed(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SHARD_SAMPLES", 7)
    workers = tmp_path / "workers"
    workers.mkdir()

    def hang(*arguments: object) -> None:
        (workers / str(os.getpid())).touch()
        time.sleep(60)

    monkeypatch.setattr(packing._ShardWriter, "_encode", hang)
    packing_process = multiprocessing.get_context("fork").Process(
        target=pack, args=(photos, tmp_path / "store"), kwargs={"workers": 2}
    )
    packing_process.start()
    wait_until(lambda: len(list(workers.iterdir())) == 2)
    packing_process.kill()
    packing_process.join()
    wait_until(lambda: not any(Path("/proc", worker.name).exists() for worker in workers.iterdir()))


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_link_in_the_folder_of_a_store_is_not_written_through(photos: Dataset, tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "plan.json").symlink_to(tmp_path / "victim")
    with pytest.raises(UsageError, match=r"plan\.json is a link"):
        pack(photos, tmp_path / "store", workers=0)
    assert (tmp_path / "victim").read_bytes() == b"precious"
