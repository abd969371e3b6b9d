"""Near-duplicates, measured on photographs. The figures in the module's docstring are checked here."""

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import skimage
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from convatlas.data import open_dataset
from convatlas.data.curation.near_duplicates import (
    MAX_DISTANCE,
    Pair,
    find_near_duplicates,
    signature,
)

PHOTOS = (
    "astronaut.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "color.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "microaneurysms.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)
Change = Callable[[Image.Image], Image.Image]


@cache
def photo(name: str) -> Image.Image:
    return Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")


def jpeg(quality: int) -> Change:
    def change(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "jpeg", quality=quality)
        return Image.open(buffer)

    return change


def halve(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def darken(image: Image.Image) -> Image.Image:
    return image.point(lambda value: 0.8 * value)


def mirror(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def redden(image: Image.Image) -> Image.Image:
    red, green, blue = image.split()
    red = red.point(lambda value: 0.7 * value + 75)
    return Image.merge("RGB", (red, green.point(lambda value: 0.7 * value), blue))


def near_duplicates(images: list[Image.Image]) -> list[Pair]:
    """The near-duplicates of images whose files all differ."""
    signatures = np.array([signature(np.asarray(image.convert("RGB"))) for image in images])
    return find_near_duplicates(signatures, [str(i).encode() for i in range(len(images))])


@pytest.mark.parametrize(
    "change",
    [jpeg(75), jpeg(95), halve, darken],
    ids=["q75", "q95", "half", "dark"],
)
def test_a_changed_photograph_is_paired_with_its_original_only(change: Change) -> None:
    originals = [photo(name) for name in PHOTOS]
    result = near_duplicates(originals + [change(image) for image in originals])
    pairs = {(pair.first, pair.second) for pair in result}
    assert pairs == {(i, i + len(PHOTOS)) for i in range(len(PHOTOS))}


@pytest.mark.parametrize("change", [mirror, redden])
def test_a_mirrored_or_recoloured_photograph_is_no_duplicate(change: Change) -> None:
    originals = [photo(name) for name in PHOTOS if name not in ("microaneurysms.png", "page.png")]
    assert near_duplicates(originals + [change(image) for image in originals]) == []


def noisy_gradient(value: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A gradient around one grey value, with noise: (64, 64, 1)."""
    gradient = np.linspace(-rng.integers(40), rng.integers(40), 64)
    pixels = value + gradient + rng.normal(0, 3, size=(64, 64))
    return pixels.clip(0, 255).astype(np.uint8)[:, :, None]


def test_images_without_contrast_are_compared_by_content_alone() -> None:
    rng = np.random.default_rng(0)
    images = [np.full((64, 64, 1), value, np.uint8) for value in (0, 128, 255)]
    images += [noisy_gradient(128, rng) for _ in range(300)]
    signatures = np.array([signature(image) for image in images])
    assert find_near_duplicates(signatures, [image.tobytes() for image in images]) == []
    with_copies = find_near_duplicates(
        np.concatenate([signatures, signatures[:5]]), [image.tobytes() for image in images + images[:5]]
    )
    assert [tuple(pair) for pair in with_copies] == [(i, 303 + i, 0.0) for i in range(5)]


def test_a_thousand_copies_make_a_thousand_pairs_and_not_a_million() -> None:
    signatures = np.array([signature(np.asarray(photo("coffee.png")))] * 1000)
    assert len(find_near_duplicates(signatures, [b"same"] * 1000)) == 999
    # files that differ, but look equal
    pairs = find_near_duplicates(signatures, [str(i).encode() for i in range(1000)])
    assert len(pairs) < 10_000
    assert {i for pair in pairs for i in pair[:2]} == set(range(1000))


def test_the_pairs_of_images_do_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(0)
    rocket = np.asarray(photo("rocket.jpg").resize((32, 32)), np.float64)
    noisy = [rocket + rng.normal(0, 12, size=rocket.shape) for _ in range(200)]
    images = [image.clip(0, 255).astype(np.uint8) for image in noisy]
    images.append((images[0] * 0.9).astype(np.uint8))
    signatures = np.array([signature(image) for image in images])
    hashes = [image.tobytes() for image in images]
    few = np.array([0, 1, 200])
    assert [pair[:2] for pair in find_near_duplicates(signatures[few], [hashes[i] for i in few])] == [(0, 2)]
    assert (0, 200) in [pair[:2] for pair in find_near_duplicates(signatures, hashes)]


@pytest.mark.parametrize("size", [100, 400])
def test_garments_of_one_kind_do_not_look_alike_whatever_their_number(size: int) -> None:
    split = open_dataset("fashion-mnist").splits["train"]
    dresses = np.flatnonzero(split.labels == 3)[:size].tolist()
    signatures = np.array([signature(split.images.image(i).decode(1, (28, 28))) for i in dresses])
    pairs = find_near_duplicates(signatures, [str(i).encode() for i in dresses])
    assert len(pairs) <= 1
    assert all(pair.distance <= MAX_DISTANCE for pair in pairs)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
def test_the_search_finds_the_pairs_that_a_full_comparison_finds(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    waves = rng.normal(size=(count, 4, 4, 1)).repeat(8, axis=1).repeat(8, axis=2)
    # make every second one similar to the one before
    waves[1::2] = waves[: count // 2 * 2 : 2] + 0.25 * rng.normal(size=waves[1::2].shape)
    signatures = np.array([signature((128 + 30 * wave).clip(0, 255).astype(np.uint8)) for wave in waves])
    hashes = [str(i).encode() for i in range(count)]
    pairs = {(pair.first, pair.second) for pair in find_near_duplicates(signatures, hashes)}
    expected = {
        (i, j)
        for i in range(count)
        for j in range(i + 1, count)
        if find_near_duplicates(signatures[[i, j]], [b"a", b"b"])
    }
    assert pairs == expected
