"""Files of class names: the forms that are read, and that anything else is refused by saying what it is."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convatlas.data.sources.class_names import (
    imagenet_class_names,
    imagenet_wnids_and_names,
    list_class_names,
    read_class_names,
)
from convatlas.errors import UserError

NAMES = ("bag", "coat, long", "shoe")


def write(folder: Path, content: str | bytes) -> Path:
    file = folder / "classes.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


FORMS = {
    "one a line": "bag\ncoat, long\nshoe\n",
    "one a line, with empty lines at the end": "bag\ncoat, long\nshoe\n\n\n",
    "one a line, with an empty line between": "bag\ncoat, long\n\nshoe",
    "Windows line ends": "bag\r\ncoat, long\r\nshoe\r\n",
    "a byte order mark": "\ufeffbag\ncoat, long\nshoe\n",
    "index,name": '0,bag\n1,"coat, long"\n2,shoe\n',
    "index,name in another order": '2,shoe\n0,bag\n1,"coat, long"\n',
    "index,name with a header": 'index,name\n0,bag\n1,"coat, long"\n2,shoe\n',
    "index,name from Windows": '\ufeffid,label\r\n0,bag\r\n1,"coat, long"\r\n2,shoe\r\n',
    "index, name": '0, bag\n1, "coat, long"\n2, shoe\n',
    "a JSON list": json.dumps(NAMES),
    "a JSON object": json.dumps(dict(enumerate(NAMES)), indent=1),
    "a JSON object from Windows": "\ufeff"
    + json.dumps(dict(enumerate(NAMES)), indent=1).replace("\n", "\r\n"),
    "Keras' form": json.dumps({i: [f"n0000000{i}", name] for i, name in enumerate(NAMES)}),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_usual_forms_give_the_same_names(form: str, tmp_path: Path) -> None:
    assert list_class_names(write(tmp_path, FORMS[form]), 3, "w.pth") == NAMES


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "a gap": ("0,bag\n2,shoe\n", "indices from 0 to 2, and none with index 1"),
    "a count from 1": ("1,bag\n2,shoe\n", "indices from 1 to 2, and none with index 0"),
    "a gap in JSON": ('{"0": "bag", "2": "shoe"}', "none with index 1"),
    "an index twice": ("0,bag\n0,shoe\n", "index 0 twice"),
    "an index twice in JSON": ('{"0": "bag", "0": "shoe"}', "index 0 twice"),
    "a name twice": ("bag\nshoe\nbag\n", "names the class 'bag' twice, for the indices 0 and 2"),
    "a name twice in a CSV": ("0,bag\n1,bag\n", "names the class 'bag' twice"),
    "three columns": ("0,n01440764,bag\n1,n01443537,shoe\n", "line 1, has 3 columns, '0,n01440764,bag'"),
    "a header of three columns": ("i,j,name\n0,bag\n1,shoe\n", "3 columns in its header"),
    "a comma without quotes": ("0,bag\n1,coat, long\n", "line 2, has 3 columns"),
    "an index in some lines": ("bag\n1,coat\nshoe\n", "in 1 lines but not in line 1, 'bag'"),
    "quotes that do not end": ('0,"bag\n1,shoe\n', "is no CSV"),
    "an empty name": ("0,\n1,shoe\n", "has the label ''"),
    "name,index": ("bag,0\nshoe,1\n", "lines such as 'bag,0', with a number each"),
    "name,index with a header": ("name,index\nbag,0\nshoe,1\n", "lines such as 'bag,0'"),
    "tabs": ("0\tbag\n1\tshoe\n", "lines such as '0�bag', with a number each"),
    "colons": ("0: bag\n1: shoe\n", "lines such as '0: bag', with a number each"),
    "semicolons": ("0;bag\n1;shoe\n", "with a number each"),
    "spaces": ("0 bag\n1 shoe\n", "with a number each"),
    "YAML": ("names:\n  0: bag\n  1: shoe\n", "with a number each"),
    "a YAML list": ("- bag\n- shoe\n", "a YAML list"),
    "name to index": ('{"bag": 0, "shoe": 1}', "a JSON object with the key 'bag'"),
    "an object in an object": ('{"0": {"name": "bag"}}', "something other than names, an object for index 0"),
    "numbers in a list": ("[0, 1]", "something other than names, a number for index 0"),
    "a list in a list": ('[["n01", "bag"]]', "a list for index 0"),
    "null": ("[null]", "null for index 0"),
    "Python's text": ("{0: 'bag', 1: 'shoe'}", "begins like a JSON object but is none"),
    "JSON cut off": ('["bag", "sho', "begins like a JSON list but is none"),
    "Latin-1": ("cr\xeape\n".encode("latin-1"), "is not UTF-8 text"),
    "UTF-16": ("bag\nshoe\n".encode("utf-16"), "is not UTF-8 text"),
    "a zero": ("ba\0g\nshoe\n", "line 1 has the label 'ba�g'"),
    "a very long name": (f"{'x' * 1001}\nshoe\n", "expected a class's name or number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_anything_else_is_refused_by_saying_what_it_is(case: str, tmp_path: Path) -> None:
    content, message = REFUSED[case]
    file = write(tmp_path, content)
    with pytest.raises(UserError) as error:
        read_class_names(file)
    assert message in str(error.value)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["bag\nshoe\n", "", "bag\ncoat\nshoe\nhat\n", "[]"])
def test_another_number_of_names_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"names \d classes, but the weights of w.pth are for 3"):
        list_class_names(write(tmp_path, content), 3, "w.pth")


def test_a_missing_file_and_a_huge_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*none.txt: No such file"):
        read_class_names(tmp_path / "none.txt")
    with pytest.raises(UserError, match="is too large for a list of classes"):
        read_class_names(write(tmp_path, "bag\n" * 10), max_bytes=39)


def test_numbers_and_names_that_begin_with_numbers_are_names(tmp_path: Path) -> None:
    """The digits; torchvision's classes of MNIST; house numbers that do not count the lines."""
    for names in (["0", "1", "2"], ["0 - zero", "1 - one", "2 - two"], ["5 euro", "10 euro", "20 euro"]):
        assert list_class_names(write(tmp_path, "\n".join(names)), 3, "w.pth") == tuple(names)


@given(
    names=st.lists(
        st.text(st.characters(codec="utf-8", categories=("L", "P", "S", "Zs")), min_size=1)
        .map(str.strip)
        .filter(lambda name: name and len(name.splitlines()) == 1),
        min_size=1,
        unique=True,
    ),
)
def test_what_json_writes_is_read_back(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("names")
    for content in (names, dict(enumerate(names))):
        file = write(folder, json.dumps(content))
        assert list_class_names(file, len(names), "w.pth") == tuple(names)


def test_imagenets_classes_each_have_a_name_of_their_own() -> None:
    classes = imagenet_wnids_and_names()
    wnids, names = zip(*classes, strict=True)
    assert len(set(wnids)) == len(set(names)) == 1000
    assert list(wnids) == sorted(wnids)
    # the two cranes and the two maillots, which many lists give one name
    assert {dict(classes)[wnid] for wnid in ("n02012849", "n03126707")} == {"crane bird", "crane"}
    assert {dict(classes)[wnid] for wnid in ("n03710637", "n03710721")} == {"maillot", "maillot tank suit"}


def test_imagenets_classes_are_in_the_usual_order() -> None:
    """Indices as published with the set and with every library's weights."""
    names = imagenet_class_names()
    expected = {0: "tench", 207: "golden retriever", 281: "tabby", 817: "sports car", 999: "toilet tissue"}
    assert {index: names[index] for index in expected} == expected
    assert imagenet_class_names(1001) == ("background", *names)
    with pytest.raises(UserError, match=r"1,000 classes \(1,001 with the background\), but the weights are"):
        imagenet_class_names(999)
