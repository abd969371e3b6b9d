"""The HTML page: one file, the network as a tree, which unfolds in a browser."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from convatlas import models
from convatlas.analysis import Report, analyze
from convatlas.analysis.render.html import TreeNode, marked_trees, render_html, tree_nodes
from convatlas.analysis.render.tables import marked_rows


@pytest.fixture(scope="module")
def resnet() -> Report:
    with torch.device("meta"):
        return analyze(models.create_model("resnet50"), (3, 224, 224))


def test_stages_come_first_and_repeated_blocks_are_one_line(resnet: Report) -> None:
    stages = tree_nodes(resnet)
    assert [node.name for node in stages] == [row.path for row in resnet.stages]
    conv4 = next(node for node in stages if node.name == "conv4_x")
    assert [node.name for node in conv4.children] == ["0", "1 to 5, x 5"]
    assert [node.name for node in conv4.children[1].children] == ["1", "2", "3", "4", "5"]


def leaves_of(node: TreeNode) -> list[TreeNode]:
    if not node.children:
        return [node]
    return [leaf for child in node.children for leaf in leaves_of(child)]


def test_every_layer_is_on_the_page_once_and_shares_add_up(resnet: Report) -> None:
    leaves = [leaf for node in tree_nodes(resnet) for leaf in leaves_of(node)]
    assert len(leaves) == len(resnet.rows)
    assert sum(leaf.macs for leaf in leaves) == pytest.approx(100)
    assert sum(node.params for node in tree_nodes(resnet)) == pytest.approx(100)


def test_the_page_needs_no_other_file(resnet: Report) -> None:
    page = resnet.to_html()
    assert not re.search(r"(src|href)\s*=|https?://|@import|url\(", page)
    assert "25,557,032" in page
    assert "FLOPs are twice as many" in page


def test_names_are_escaped() -> None:
    class HasMarkupInName(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("<script>alert(1)</script>", nn.Conv2d(1, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self._modules["<script>alert(1)</script>"](x)  # type: ignore[misc]
            return out

    report = analyze(HasMarkupInName(), (1, 4, 4))
    for page in (report.to_html(), report._repr_html_()):
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(1)" in page


def test_a_notebook_shows_stages_that_unfold_without_a_script(resnet: Report) -> None:
    fragment = resnet._repr_html_()
    assert not re.search(r"<script|<html|<body|(src|href)\s*=|https?://|@import|url\(", fragment)
    for line in fragment.partition("</style>")[0].splitlines():  # no style reaches the rest of the notebook
        assert line.startswith(("<style>", ".convatlas-report", "  "))
    assert fragment.count("<details>") == fragment.count("</details>") > len(resnet.stages) / 2
    assert "<details open" not in fragment
    assert "25,557,032" in fragment


def test_two_networks_share_a_page_with_their_comparison(resnet: Report) -> None:
    with torch.device("meta"):
        other = analyze(models.create_model("resnet50", "torchvision"), (3, 224, 224))
    page = render_html(resnet, other)
    assert "resnet50, paper against resnet50, torchvision" in page
    assert "4,089,184,256" in page
    assert page.count("<h1>") == 3
    assert '<tr class="changed"><td>multiply-adds *</td>' in page
    assert "<tr><td>parameters</td>" in page


def test_lines_in_which_two_networks_differ_are_marked_as_in_the_terminal(resnet: Report) -> None:
    with torch.device("meta"):
        other = analyze(models.create_model("resnet50", "torchvision"), (3, 224, 224))
    reports = (resnet, other)
    stages, layers = marked_rows(reports), marked_rows(reports, depth=99)
    for tree, (stage_rows, changed_stages), (layer_rows, changed_layers) in zip(
        marked_trees(reports), stages, layers, strict=True
    ):
        assert [node.name for node in tree] == [row[0] for row in stage_rows]
        assert [node.changed for node in tree] == changed_stages
        leaves = [leaf for node in tree for leaf in leaves_of(node)]
        assert {leaf.cells: leaf.changed for leaf in leaves} == {
            (row[0].removesuffix(" *"), *row[1:]): is_changed
            for row, is_changed in zip(layer_rows, changed_layers, strict=True)
        }
        assert all(leaf.name.endswith(" *") == leaf.changed for leaf in leaves)
    page = render_html(*reports)
    assert '<div class="line changed"><span class="name" style="--depth:0">conv3_x *</span>' in page
    assert '<div class="line"><span class="name" style="--depth:0">conv2_x</span>' in page


def test_no_line_of_one_network_or_of_two_that_have_little_in_common_is_marked(resnet: Report) -> None:
    with torch.device("meta"):
        other = analyze(models.create_model("vgg11"), (3, 224, 224))
    for reports in ((resnet,), (resnet, other)):
        assert 'class="line changed"' not in render_html(*reports)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_the_buttons_unfold_and_fold_the_tree_in_a_browser(resnet: Report, tmp_path: Path) -> None:
    script = """<script>
      const details = [...document.querySelectorAll("details")];
      const countOpen = () => details.filter((d) => d.open).length;
      const [unfold, fold] = document.querySelectorAll("button");
      const counts = [details.length, countOpen()];
      for (const button of [unfold, fold]) { button.click(); counts.push(countOpen()); }
      document.title = counts.join(" ");
    </script>"""
    page = tmp_path / "page.html"
    page.write_text(resnet.to_html().replace("</body>", script + "</body>"))
    options = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
    )
    command = ["chromium", *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    title = re.search(r"<title>(\d+) (\d+) (\d+) (\d+)</title>", process.stdout)
    assert title is not None, process.stdout[:500]
    count, initially_open, unfolded, folded = map(int, title.groups())
    assert (initially_open, unfolded, folded) == (0, count, 0)
    assert count > 50
