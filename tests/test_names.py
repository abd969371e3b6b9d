"""Names of any bytes as text: one rule for documents, tables, Markdown and figures."""

import html
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from convatlas.markdown import markdown_text
from convatlas.names import encodable, escape_name, printable, resolve_path, unescape_name
from convatlas.plotting import figure_png, figure_text, plot_style

NAMES = st.binary(min_size=1, max_size=30).filter(lambda name: b"\0" not in name).map(os.fsdecode)
MARKUP = st.text("a1 _*`~[](){}<>|!#+-=.:/\\&$@\n\x1bw", min_size=1, max_size=20)


@given(NAMES | MARKUP)
def test_an_escaped_name_is_printable_and_can_be_read_back(name: str) -> None:
    text = escape_name(name)
    assert text.replace("\N{NO-BREAK SPACE}", "").isprintable() or not text.isascii()
    assert text.encode().decode() == text
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text)
    assert unescape_name(text) == name


@given(NAMES | MARKUP)
def test_text_for_people_is_escaped_once_however_often(name: str) -> None:
    assert printable(printable(name)) == printable(name)
    assert encodable(encodable(name)) == encodable(name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"caf\xc3\xa9.jpg", "café.jpg"),
        (b"caf\xe9.jpg", r"caf\xe9.jpg"),
        (b"a\nb\x1b[2J.png", r"a\x0ab\x1b[2J.png"),
        (b"a\xe2\x80\xaeb", r"a\xe2\x80\xaeb"),  # text from right to left
        ("10.15\N{NARROW NO-BREAK SPACE}PM".encode(), "10.15\N{NARROW NO-BREAK SPACE}PM"),
    ],
)
def test_bytes_that_are_no_printable_text_are_escaped(name: bytes, text: str) -> None:
    assert printable(os.fsdecode(name)) == text


def test_a_path_that_exists_is_taken_as_it_stands(tmp_path: os.PathLike[str]) -> None:
    raw = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    assert resolve_path(escape_name(raw)) == escape_name(raw)
    open(raw, "w").close()
    assert resolve_path(escape_name(raw)) == raw
    open(escape_name(raw), "w").close()
    assert resolve_path(escape_name(raw)) == escape_name(raw)


@given(NAMES | MARKUP)
def test_a_name_in_markdown_is_text_and_no_markup(name: str) -> None:
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    text = markdown_text(f"x{name}x")
    expected = html.escape(printable(f"x{name}x"), quote=False)
    assert parser.render(f"| a |\n|---|\n| {text} |\n").count("<td>") == 1
    cell = parser.render(f"| a |\n|---|\n| {text} |\n").split("<td>")[1].split("</td>")[0]
    assert html.unescape(cell) == html.unescape(expected)
    assert html.unescape(parser.render(f"# {text}\n")) == f"<h1>{html.unescape(expected)}</h1>\n"


@pytest.mark.parametrize(
    "name", ["# a", "- a", "+ a", "1. a", "12345678) a", "= a", "https://a.b", "www.a.b", "a@b.c"]
)
def test_a_line_that_starts_with_a_name_is_a_paragraph(name: str) -> None:
    parser = MarkdownIt("commonmark")
    assert html.unescape(parser.render(markdown_text(name))) == f"<p>{name}</p>\n"
    assert not any(address in markdown_text(name) for address in ("s://", "www.", "@"))


@pytest.mark.parametrize("name", ["$\\bad{$", "$x^2$", "\\$a$", "a$b$c$", "$$", "\\", "_a", "100 $"])
def test_a_name_in_a_figure_is_text_and_no_mathematics(name: str) -> None:
    drawings = []
    for parse_math, title in ((True, figure_text(name)), (False, name)):
        with plot_style(parse_math=parse_math):
            figure = Figure(figsize=(2, 1))
            figure.suptitle(title)
            drawings.append(figure_png(figure))
    assert drawings[0] == drawings[1]
