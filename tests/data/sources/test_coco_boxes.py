"""COCO files: what they say is read, and what is wrong with them is named, never guessed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convatlas.data.sources.coco_boxes import read_coco
from convatlas.errors import UsageError, UserError

WIDTH, HEIGHT = 40, 30


def document(**changes: Any) -> dict[str, Any]:
    return {
        "images": [
            {"id": 7, "file_name": "images/a.png", "width": WIDTH, "height": HEIGHT, "license": 1},
            {"id": 3, "file_name": "images/b.png", "width": WIDTH, "height": HEIGHT},
        ],
        "categories": [{"id": 9, "name": "cat"}, {"id": 2, "name": "dog", "supercategory": "animal"}],
        "annotations": [annotation(1, 7, 9, [1, 2, 10, 20]), annotation(2, 7, 2, [0, 0, 40, 30])],
    } | changes


def annotation(id_: int, image: int, category: int, bbox: object, crowd: int = 0) -> dict[str, Any]:
    return {"id": id_, "image_id": image, "category_id": category, "bbox": bbox, "iscrowd": crowd, "area": 1}


def write(folder: Path, content: object) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    for name in "ab":
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / f"{name}.png")
    file = folder / "boxes.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_images_boxes_and_classes_are_read(tmp_path: Path) -> None:
    content = document()
    content["annotations"].append(annotation(3, 3, 9, [5, 5, 4, 4], crowd=1))
    read = read_coco(write(tmp_path, content))
    assert read.classes == ("dog", "cat")  # by id
    first, second = read.images
    assert first.file == tmp_path / "images" / "a.png"
    assert first.boxes.tolist() == [[1, 2, 11, 22], [0, 0, 40, 30]]
    assert first.labels.tolist() == [1, 0]
    assert not first.ignored.any()
    assert second.ignored.tolist() == [True]
    assert first.decode().shape == (HEIGHT, WIDTH, 3)


def test_an_image_without_annotations_is_background(tmp_path: Path) -> None:
    read = read_coco(write(tmp_path, document(annotations=[])))
    assert [image.boxes.shape for image in read.images] == [(0, 4), (0, 4)]


def test_what_rounding_lets_a_box_exceed_is_clipped(tmp_path: Path) -> None:
    content = document(annotations=[annotation(1, 7, 9, [-0.4, 10, 41, 20.9])])
    assert read_coco(write(tmp_path, content)).images[0].boxes.tolist() == [[0, 10, 40, 30]]


BAD_BOXES = [
    ([30, 2, 15, 5], r"the box \(30, 2, 45, 7\) lies 5 pixels outside the image of 40x30"),
    ([60, 2, 5, 5], "lies 25 pixels outside"),
    ([40.2, 2, 0.5, 5], "outside the image"),
    ([10, 2, -5, 5], r"the box \(10, 2, 5, 7\) is inverted"),
    ([10, 2, 5, 0], "has no area"),
    ([1, 2, "wide", 4], "is not finite"),
    ([1, 2, 3], "is not finite"),
    ([1, 2, float("nan"), 4], "is not finite"),
    ([1, 2, float("inf"), 4], "is not finite"),
    ([1, 2, 10**400, 4], "is not finite"),
    ([1, 2, True, 4], "is not finite"),
    (None, "is not finite"),
]


@pytest.mark.parametrize(("bbox", "reason"), BAD_BOXES)
def test_a_bad_box_is_an_error_or_leaves_its_whole_image_out(
    tmp_path: Path, bbox: object, reason: str
) -> None:
    content = document()
    content["annotations"].append(annotation(5, 7, 9, bbox))
    file = write(tmp_path, content)
    with pytest.raises(UserError, match=r"boxes\.json, annotation 5 \(image 7\): .*" + reason):
        read_coco(file)
    read = read_coco(file, on_bad="skip")
    assert [image.file.name for image in read.images] == ["b.png"]
    (skipped,) = read.skipped
    assert "annotation 5 (image 7)" in skipped.position


def test_unknown_images_categories_and_files_are_named(tmp_path: Path) -> None:
    content = document()
    content["annotations"] += [annotation(5, 99, 9, [1, 1, 2, 2]), annotation(6, 3, 77, [1, 1, 2, 2])]
    content["images"] += [
        {"id": 4, "file_name": "images/gone.png", "width": 5, "height": 5},
        {"id": 5, "file_name": "../images/a.png", "width": 5, "height": 5},
        {"id": 6, "file_name": "/etc/passwd", "width": 5, "height": 5},
    ]
    file = write(tmp_path, content)
    with pytest.raises(UserError, match=r"annotation 5 .*its image_id 99 is not among the images"):
        read_coco(file)
    read = read_coco(file, on_bad="skip")
    assert [image.file.name for image in read.images] == ["a.png"]
    reasons = "\n".join(map(str, read.skipped))
    assert "annotation 6 (image 3): its category_id 77 is not among the categories" in reasons
    assert "images/gone.png does not exist" in reasons
    assert reasons.count("does not lead below the folder of the images") == 2
    assert len(read.skipped) == 5


def test_ids_and_names_that_occur_twice_are_an_error_under_any_policy(tmp_path: Path) -> None:
    image = document()["images"][0]
    for changes, reason in (
        ({"images": [image, image]}, "two image entries with the id 7"),
        ({"categories": [{"id": 9, "name": "a"}, {"id": 9, "name": "b"}]}, "two category entries"),
        ({"categories": [{"id": 9, "name": "a"}, {"id": 8, "name": " a"}]}, "two categories named a"),
    ):
        with pytest.raises(UserError, match=reason):
            read_coco(write(tmp_path, document(**changes)), on_bad="skip")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"images": []}', '{"images": 1, "categories": []}', "[" * 100_000, '{"images": NaN}'],
)
def test_what_is_no_coco_file_is_an_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match=r"boxes\.json is no COCO file for detection"):
        read_coco(write(tmp_path, content))


def test_a_set_without_a_usable_image_is_an_error(tmp_path: Path) -> None:
    content = document(annotations=[annotation(i, i, 9, [1, 1, 0, 0]) for i in (7, 3)])
    with pytest.raises(UserError, match=r"has no usable image; the first of 2 bad annotations: .*no area"):
        read_coco(write(tmp_path, content), on_bad="skip")
    with pytest.raises(UsageError, match="unknown policy for bad annotations 'ignore'"):
        read_coco(write(tmp_path, content), on_bad="ignore")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="cannot read"):
        read_coco(tmp_path / "none.json")


def test_an_image_of_another_size_than_its_annotations_is_refused(tmp_path: Path) -> None:
    """Also one that a camera has turned: its boxes are for the pixels before."""
    read = read_coco(write(tmp_path, document()))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / "images" / "a.png", exif=exif)
    with pytest.raises(
        UserError, match=r"a\.png: it has 30x40 pixels \(upright\), its annotations are for 40x30"
    ):
        read.images[0].decode()
