"""PASCAL VOC's XML: what it says is read; what is wrong or hostile is named."""

from pathlib import Path

import pytest
from PIL import Image

from convatlas.data.sources.voc_boxes import MAX_BYTES, read_voc
from convatlas.errors import UserError


def object_xml(name: str = "cat", box: tuple[object, ...] = (1, 3, 10, 20), difficult: str = "0") -> str:
    tags = "".join(
        f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    part = "<part><name>head</name><bndbox><xmin>2</xmin></bndbox></part>"
    return (
        f"<object><name>{name}</name>{part}<difficult>{difficult}</difficult><bndbox>{tags}</bndbox></object>"
    )


def annotation_xml(*objects: str, filename: str = "a.jpg", size: tuple[object, object] = (40, 30)) -> str:
    sizes = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{filename}</filename>{sizes}{''.join(objects)}</annotation>"


def write(folder: Path, **annotations: str | bytes) -> Path:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, content in annotations.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / "Annotations" / f"{name}.xml").write_bytes(data)
        Image.new("RGB", (40, 30)).save(folder / "JPEGImages" / f"{name}.jpg")
    return folder


def test_boxes_are_counted_from_the_first_pixel_and_hold_the_last(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        a=annotation_xml(object_xml(), object_xml("ant", (1, 1, 40, 30), difficult="1")),
        b=annotation_xml(filename="b.jpg"),
    )
    read = read_voc(folder)
    assert read.classes == ("ant", "cat")
    first, second = read.images
    assert first.boxes.tolist() == [[0, 2, 10, 20], [0, 0, 40, 30]]
    assert first.labels.tolist() == [1, 0]
    assert first.ignored.tolist() == [False, True]
    assert first.decode().shape == (30, 40, 3)
    assert len(second.boxes) == 0


def test_a_split_and_its_classes_are_those_that_are_named(tmp_path: Path) -> None:
    folder = write(
        tmp_path, a=annotation_xml(object_xml()), b=annotation_xml(object_xml("dog"), filename="b.jpg")
    )
    (folder / "ImageSets" / "Main" / "train.txt").write_text("b  1\n\n")
    read = read_voc(folder, "train", classes=("cat", "dog"))
    assert [image.file.name for image in read.images] == ["b.jpg"]
    assert read.images[0].labels.tolist() == [1]
    with pytest.raises(UserError, match=r"b\.xml, object 0: the class 'dog' is unknown"):
        read_voc(folder, classes=("cat",))
    assert len(read_voc(folder, classes=("cat",), on_bad="skip").skipped) == 1
    (folder / "ImageSets" / "Main" / "val.txt").write_text("../../a\n")
    with pytest.raises(UserError, match=r"names \.\./\.\./a, which is outside of the data set"):
        read_voc(folder, "val")
    with pytest.raises(UserError, match="cannot read"):
        read_voc(folder, "test")


BOMB = (
    '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
    "<annotation><filename>&b;</filename></annotation>"
)
EXTERNAL = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (annotation_xml(object_xml(box=(10, 3, 1, 20))), r"object 0: the box \(9, 2, 1, 20\) is inverted"),
        (annotation_xml(object_xml(box=(11, 3, 10, 20))), "has no area"),
        (annotation_xml(object_xml(box=(1, 3, 90, 20))), "lies 50 pixels outside the image of 40x30"),
        (annotation_xml(object_xml(box=("x", 3, 9, 20))), "object 0: <xmin> is 'x': expected a number"),
        (annotation_xml(object_xml(box=("nan", 3, 9, 20))), "<xmin> is 'nan'"),
        (annotation_xml(object_xml(box=("1e999", 3, 9, 20))), "<xmin> is '1e999'"),
        (annotation_xml(object_xml().replace("xmax", "max")), "<xmax> is missing"),
        (annotation_xml(object_xml(name="")), "object 0 has the label ''"),
        (annotation_xml(size=(0, 30)), "an image of 0x30 pixels"),
        (annotation_xml(size=("", 30)), "<width> is ''"),
        (annotation_xml(filename="c.jpg"), "c.jpg does not exist"),
        (annotation_xml(filename="/etc/passwd"), "its <filename> does not lead below"),
        ("<annotation/>", "its <filename> does not lead below"),
        ("<annotation>", "not XML"),
        ("", "not XML"),
        (b"<?xml version='1.0' encoding='nonsense'?><a/>", "not XML"),
        (BOMB, "XML with a document type"),
        (EXTERNAL, "XML with a document type"),
        ("<a>" * 100_000, "XML of more than 16 levels"),
        (b" " * (MAX_BYTES + 1), "more than 4 MiB"),
    ],
)
def test_a_bad_annotation_is_an_error_or_leaves_its_image_out(
    tmp_path: Path, content: str | bytes, reason: str
) -> None:
    folder = write(tmp_path, a=content, b=annotation_xml(object_xml(), filename="b.jpg"))
    with pytest.raises(UserError, match=r"a\.xml.*" + reason):
        read_voc(folder)
    read = read_voc(folder, on_bad="skip")
    assert [image.file.name for image in read.images] == ["b.jpg"]
    assert "a.xml" in read.skipped[0].position


def test_a_folder_without_annotations_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no XML files: expected PASCAL VOC's layout"):
        read_voc(tmp_path)
