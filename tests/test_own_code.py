"""The page "In your own code": its blocks run in order, and its distributed block on two ranks."""

import importlib.util
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.rank_jobs import finish_ranks, free_port, run_code, start_ranks

import convatlas as ca

PAGE = Path(__file__).parent.parent / "docs" / "own_code.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


class StubModule(torch.nn.Module):
    """What the page uses of Lightning's module, where Lightning is not installed."""

    def log(self, name: str, value: torch.Tensor) -> None:
        assert value.isfinite()


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("lightning") is None:
        stub: Any = types.ModuleType("lightning")
        stub.LightningModule = StubModule
        monkeypatch.setitem(sys.modules, "lightning", stub)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler warns about torch's own code
@pytest.mark.usefixtures("lightning")
def test_the_blocks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    process_group = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
    for name, value in process_group.items():
        monkeypatch.setenv(name, str(value))
    namespace: dict[str, Any] = {"__name__": "own_code"}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"own_code.md, block {number}", "exec"), namespace)
    assert ca.load(tmp_path / "insects").metadata.classes == ("ant", "bee", "wasp")
    assert namespace["maps"]["conv5_x.0"].shape == (12, 128, 2, 2)
    assert sum(parameter.requires_grad for parameter in namespace["model"].parameters()) < 20
    step = namespace["lit"].training_step((namespace["images"], namespace["labels"]), 0)
    assert step.requires_grad
    assert namespace["report"].notes == [
        "Own returns several values: 'logits' of its dict is taken as its output"
    ]
    torch._dynamo.reset()


def test_networks_with_auxiliary_heads_train_under_distributed_data_parallel(tmp_path: Path) -> None:
    (block,) = [block for block in BLOCKS if "DistributedDataParallel" in block]
    code = f"""
import torch
import torch.nn.functional as F
import convatlas as ca
{block}
torch.manual_seed(0)
initial = ca.create_model("googlenet", num_classes=3, width=0.1)
unchanged = [name for name, p in initial.named_parameters() if torch.equal(p, network.get_parameter(name))]
print(unchanged, float(sum(p.double().sum() for p in network.parameters())))
"""
    results = finish_ranks(start_ranks(tmp_path, [(run_code, code)] * 2))
    assert [result.exit_code for result in results] == [0, 0], results
    assert results[0].stdout == results[1].stdout  # the same weights, although each had its own images
    assert results[0].stdout.startswith("[] ")  # and every one of them was trained, heads included
