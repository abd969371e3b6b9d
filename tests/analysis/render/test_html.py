"""The page: everything in one file, the tree as the network is, and in a browser it unfolds."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from convatlas import models
from convatlas.analysis import Report, analyze
from convatlas.analysis.render.html import TreeNode, html, tree_nodes


@pytest.fixture(scope="module")
def resnet() -> Report:
    with torch.device("meta"):
        return analyze(models.create_model("resnet50"), (3, 224, 224))


def test_stages_come_first_and_repeated_blocks_once_with_their_number(resnet: Report) -> None:
    top = tree_nodes(resnet)
    assert [b.name for b in top] == [row.path for row in resnet.stages]
    conv4 = next(b for b in top if b.name == "conv4_x")
    assert [b.name for b in conv4.branches] == ["0", "1 to 5, x 5"]
    assert [b.name for b in conv4.branches[1].branches] == ["1", "2", "3", "4", "5"]


def test_every_layer_stands_on_the_page_once_and_shares_add_up(resnet: Report) -> None:
    def leaves(branch: TreeNode) -> list[TreeNode]:
        return [leaf for inner in branch.branches for leaf in leaves(inner)] if branch.branches else [branch]

    found = [leaf for branch in tree_nodes(resnet) for leaf in leaves(branch)]
    assert len(found) == len(resnet.rows)
    assert sum(leaf.macs for leaf in found) == pytest.approx(100)
    assert sum(branch.params for branch in tree_nodes(resnet)) == pytest.approx(100)


def test_the_page_needs_nothing_beside_it(resnet: Report) -> None:
    page = resnet.to_html()
    assert not re.search(r"(src|href)\s*=|https?://|@import|url\(", page)
    assert "25,557,032" in page
    assert "FLOPs are twice as many" in page


def test_names_are_escaped() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("<script>alert(1)</script>", nn.Conv2d(1, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self._modules["<script>alert(1)</script>"](x)  # type: ignore[misc]
            return out

    page = analyze(Odd(), (1, 4, 4)).to_html()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_two_networks_stand_on_one_page_with_what_sets_them_apart(resnet: Report) -> None:
    with torch.device("meta"):
        other = analyze(models.create_model("resnet50", "torchvision"), (3, 224, 224))
    page = html(resnet, other)
    assert "resnet50, paper against resnet50, torchvision" in page
    assert "4,089,184,256" in page
    assert page.count("<h1>") == 3


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_in_a_browser_everything_unfolds_at_a_click(resnet: Report, tmp_path: Path) -> None:
    click = """<script>
      const all = [...document.querySelectorAll("details")], opened = () => all.filter((d) => d.open).length;
      const before = opened(); document.querySelector("button").click(); const after = opened();
      document.querySelectorAll("button")[1].click(); document.title = [all.length, before, after, opened()].join(" ");
    </script>"""
    page = tmp_path / "page.html"
    page.write_text(resnet.to_html().replace("</body>", click + "</body>"))
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
    command = ["chromium", *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    title = re.search(r"<title>(\d+) (\d+) (\d+) (\d+)</title>", done.stdout)
    assert title is not None, done.stdout[:500]
    count, before, after, folded = map(int, title.groups())
    assert (before, after, folded) == (0, count, 0)
    assert count > 50
