"""Which images are taken for the same, measured on photographs. Figures of the module's docstring are checked here."""

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

from convatlas.data.curation.near_duplicates import (
    MAX_DISTANCE,
    MAX_DISTANCE_UNIFORM_SET,
    NearDuplicates,
    find_near_duplicates,
    signature,
)

PHOTOS = (
    *("astronaut.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png", "color.png"),
    *("grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "microaneurysms.png", "moon.png", "motorcycle_left.png"),
    *("motorcycle_right.png", "page.png", "retina.jpg", "rocket.jpg", "text.png"),
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


def half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def cropped(image: Image.Image) -> Image.Image:
    """1 % off every side."""
    return image.crop((round(image.width * 0.01), round(image.height * 0.01), round(image.width * 0.99), round(image.height * 0.99)))


def darker(image: Image.Image) -> Image.Image:
    return image.point(lambda value: 0.8 * value)


def mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def reddened(image: Image.Image) -> Image.Image:
    red, green, blue = image.split()
    return Image.merge("RGB", (red.point(lambda value: 0.7 * value + 75), green.point(lambda value: 0.7 * value), blue))


def pairs(images: list[Image.Image]) -> NearDuplicates:
    return find_near_duplicates(
        np.array([signature(np.asarray(image.convert("RGB"))) for image in images]), [str(i).encode() for i in range(len(images))]
    )


@pytest.mark.parametrize("change", [jpeg(50), jpeg(75), jpeg(95), half, cropped, darker], ids=["q50", "q75", "q95", "half", "crop", "dark"])
def test_a_changed_photograph_is_found_beside_all_others_and_no_two_different_ones_are(change: Change) -> None:
    originals = [photo(name) for name in PHOTOS]
    found = pairs(originals + [change(image) for image in originals])
    assert {(pair.first, pair.second) for pair in found.pairs} == {(i, i + len(PHOTOS)) for i in range(len(PHOTOS))}
    assert found.max_distance == MAX_DISTANCE


@pytest.mark.parametrize("change", [mirrored, reddened])
def test_a_mirrored_or_a_recoloured_photograph_is_another(change: Change) -> None:
    originals = [photo(name) for name in PHOTOS if name not in ("microaneurysms.png", "page.png")]
    assert pairs(originals + [change(image) for image in originals]).pairs == []


def noisy(value: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Of one grey, sloping towards another, with noise."""
    slope = np.linspace(-rng.integers(40), rng.integers(40), 64)
    return (value + slope + rng.normal(0, 3, size=(64, 64))).clip(0, 255).astype(np.uint8)[:, :, None]


def test_images_without_contrast_are_told_apart_by_content_alone() -> None:
    rng = np.random.default_rng(0)
    images = [np.full((64, 64, 1), value, np.uint8) for value in (0, 128, 255)] + [noisy(128, rng) for _ in range(300)]
    looks = np.array([signature(image) for image in images])
    assert find_near_duplicates(looks, [image.tobytes() for image in images]).pairs == []
    twice = find_near_duplicates(np.concatenate([looks, looks[:5]]), [image.tobytes() for image in images + images[:5]])
    assert [tuple(pair) for pair in twice.pairs] == [(i, 303 + i, 0.0) for i in range(5)]


def test_a_thousand_copies_make_a_thousand_pairs_and_not_a_million() -> None:
    one = signature(np.asarray(photo("coffee.png")))
    assert len(find_near_duplicates(np.array([one] * 1000), [b"same"] * 1000).pairs) == 999
    near = find_near_duplicates(np.array([one] * 1000), [str(i).encode() for i in range(1000)]).pairs  # equal to the eye alone
    assert len(near) < 10_000
    assert {i for pair in near for i in pair[:2]} == set(range(1000))


def test_where_all_images_look_alike_only_the_nearest_count() -> None:
    rng = np.random.default_rng(0)
    blob = np.asarray(photo("rocket.jpg").resize((32, 32)), np.float64)
    images = [(blob + rng.normal(0, 12, size=blob.shape)).clip(0, 255).astype(np.uint8) for _ in range(200)]
    images.append((images[0] * 0.9).astype(np.uint8))
    found = find_near_duplicates(np.array([signature(image) for image in images]), [image.tobytes() for image in images])
    assert found.max_distance == MAX_DISTANCE_UNIFORM_SET
    assert [(pair.first, pair.second) for pair in found.pairs] == [(0, 200)]


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
def test_the_search_finds_what_comparing_all_with_all_finds(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    waves = rng.normal(size=(count, 4, 4, 1)).repeat(8, axis=1).repeat(8, axis=2)
    waves[1::2] = waves[: count // 2 * 2 : 2] + 0.25 * rng.normal(size=waves[1::2].shape)  # some near, some not
    looks = np.array([signature((128 + 30 * wave).clip(0, 255).astype(np.uint8)) for wave in waves])
    names = [str(i).encode() for i in range(count)]
    found = {(pair.first, pair.second) for pair in find_near_duplicates(looks, names).pairs}
    alone = {(i, j) for i in range(count) for j in range(i + 1, count) if find_near_duplicates(looks[[i, j]], [b"a", b"b"]).pairs}
    assert found == alone
