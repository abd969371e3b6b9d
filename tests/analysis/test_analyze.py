"""`analyze` on modules of any kind, and its errors for modules that it cannot run."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convatlas import models
from convatlas.analysis import analyze
from convatlas.errors import UsageError, UserError


def test_the_callers_module_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    model = models.create_model("googlenet", num_classes=10).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    report = analyze(model, (3, 96, 96))
    assert report.training_bytes
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(p.grad is None and p.device.type == "cpu" for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_report_is_the_same_in_inference_mode() -> None:
    model = models.create_model("resnet20_cifar")
    with torch.inference_mode():
        report = analyze(model, (3, 32, 32))
    assert report.to_json() == analyze(model, (3, 32, 32)).to_json()
    assert report.macs == models.golden_counts("resnet20_cifar")["macs"]


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(
        self, left: Tensor, right: Tensor, options: dict[str, Tensor] | None = None
    ) -> dict[str, Any]:
        left_map = self.conv(left)
        right_map = self.conv(right)
        scale = options["scale"] if options else 1
        return {"difference": (left_map - right_map) * scale, "maps": [left_map, right_map]}


@pytest.mark.parametrize(
    "example",
    [
        (torch.empty(1, 3, 8, 8), torch.empty(1, 3, 8, 8)),
        {"left": torch.empty(1, 3, 8, 8), "right": torch.empty(1, 3, 8, 8)},
        (torch.empty(1, 3, 8, 8), torch.empty(1, 3, 8, 8), {"scale": torch.empty(1)}),
    ],
    ids=["tuple", "by name", "nested"],
)
def test_inputs_and_outputs_have_any_structure(example: Any) -> None:
    report = analyze(Siamese(), example)
    assert report.macs == 2 * 4 * 27 * 36
    assert report.params == 112
    assert report.receptive_field("") == ((0, 3, 1), (0, 3, 1))
    assert report.document()["input"][0] == [1, 3, 8, 8]


def test_training_memory_is_unknown_without_a_forward_in_training_mode() -> None:
    class Detector(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise ValueError("targets should be given in training")
            return x * 2

    report = analyze(Detector(), (3, 8, 8))
    assert report.training_bytes is None
    assert "training: unknown" in report.to_markdown()


def test_half_precision_counts_two_bytes_an_element() -> None:
    report = analyze(nn.Conv2d(3, 8, 3).bfloat16(), (3, 10, 10))
    assert report.written_bytes == 2 * 8 * 64


@torch.library.custom_op("convatlas_tests::mystery", mutates_args=())
def mystery(x: Tensor) -> Tensor:
    return x.flip(-1)


@mystery.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def test_an_unsupported_operator_is_named_and_depends_on_all_pixels() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = mystery(self.conv(x))
            return out

    report = analyze(Net(), (1, 9, 9))
    assert len(report.notes) == 1
    assert report.notes[0].startswith("unsupported operator: convatlas_tests::mystery (1 x, in Net)")
    assert [extent.size for extent in report.receptive_field("")] == [9, 9]


def test_modules_that_do_not_run_are_named() -> None:
    with torch.device("meta"):
        report = analyze(models.create_model("inception_v3"), (3, 299, 299))
    assert report.notes == ["not called in evaluation: aux (3,326,696 parameters, counted in the total)"]


class DependsOnValues(nn.Module):
    """A module whose control flow depends on the values of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


def two_convolutions() -> nn.Module:
    net = nn.Sequential()
    net.add_module("first", nn.Conv2d(3, 4, 5, stride=2))
    net.add_module("second", nn.Conv2d(4, 4, 9))
    return net


@pytest.mark.parametrize(
    ("model", "example", "error", "message"),
    [
        (
            two_convolutions(),
            (3, 16, 16),
            UsageError,
            r"Sequential fails on a tensor of 1x3x16x16: second \(Conv2d\) got \(1, 4, 6, 6\)",
        ),
        (two_convolutions(), (1, 32, 32), UsageError, r"first \(Conv2d\) got \(1, 1, 32, 32\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), (3, 4, 4), UsageError, r"1 \(Linear\) got \(1, 48\)"),
        (
            Siamese(),
            (3, 8, 8),
            UsageError,
            "Siamese cannot be called with a tensor of 1x3x8x8 alone .*'right'.*: give example inputs",
        ),
        (Siamese(), {"left": 3}, UsageError, "Siamese cannot be called with no tensors alone"),
        (
            DependsOnValues(),
            (3, 8, 8),
            UserError,
            "DependsOnValues itself needs the values of its tensors.*device='cpu'",
        ),
        (
            nn.LazyConv2d(4, 3),
            (3, 8, 8),
            UserError,
            "LazyConv2d has parameters without a shape yet: run it once",
        ),
        (nn.ReLU(), "3x8x8", UsageError, "cannot make an input of '3x8x8': expected"),
        (nn.ReLU(), (3, 0, 8), UsageError, r"the input \(3, 0, 8\) has an empty side"),
        (nn.ReLU(), None, UsageError, "analyze needs an input: the shape of one image"),
        (F.relu, (3, 8, 8), UsageError, "cannot analyse a function: expected an nn.Module"),
    ],
)
def test_a_failed_forward_is_one_sentence_that_names_the_layer(
    model: nn.Module, example: Any, error: type[UserError], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        analyze(model, example)
    assert "\n" not in str(raised.value)


def test_a_module_that_depends_on_values_runs_on_the_cpu() -> None:
    report = analyze(DependsOnValues(), torch.ones(1, 3, 4, 4), device="cpu")
    assert report.receptive_field("") == ((0, 1, 1), (0, 1, 1))


def test_a_device_that_does_not_exist_is_refused() -> None:
    message = r"cannot analyse on abacus .*: expected meta, cpu or a device of this machine"
    with pytest.raises(UsageError, match=message):
        analyze(nn.ReLU(), (3, 8, 8), device="abacus")


def jit_traced(net: nn.Module) -> Any:
    return torch.jit.trace(net, torch.empty(1, 3, 32, 32))  # type: ignore[no-untyped-call]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("wrap", [torch.jit.script, torch.compile, nn.DataParallel, jit_traced])
def test_wrapped_and_scripted_modules_give_the_same_report(wrap: Any) -> None:
    wrapped = analyze(wrap(two_convolutions()), (3, 32, 32))
    report = analyze(two_convolutions(), (3, 32, 32))
    assert (wrapped.params, wrapped.macs) == (report.params, report.macs)
    assert wrapped.receptive_field("") == report.receptive_field("")


def test_recurrent_and_attention_modules_are_counted() -> None:
    lstm = analyze(nn.LSTM(8, 16, batch_first=True), torch.empty(1, 5, 8))
    assert lstm.macs == 5 * 4 * 16 * (8 + 16)
    attention = analyze(nn.MultiheadAttention(8, 2, batch_first=True), (torch.empty(1, 5, 8),) * 3)
    assert attention.macs == 4 * 5 * 8 * 8 + 2 * 5 * 5 * 8


def test_an_error_that_the_forward_catches_is_ignored() -> None:
    class TriesTwoLayers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gray_conv = nn.Conv2d(1, 4, 3)
            self.color_conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            try:
                out: Tensor = self.gray_conv(x)
            except RuntimeError:
                out = self.color_conv(x)
            return out.view(-1, 4, 36)

    assert analyze(TriesTwoLayers(), (3, 8, 8)).macs == 4 * 27 * 36
    with pytest.raises(UsageError, match="TriesTwoLayers itself got"):
        analyze(TriesTwoLayers(), (3, 9, 9))


def test_an_unknown_layer_is_refused_with_the_nearest_name() -> None:
    report = analyze(two_convolutions(), (3, 64, 64))
    with pytest.raises(UsageError, match="'secnd': the nearest is 'second'"):
        report.receptive_field("secnd")


def test_an_output_without_the_image_has_no_receptive_field() -> None:
    with pytest.raises(UserError, match="the output of Constant does not depend on the image"):
        analyze(Constant(), (3, 8, 8)).receptive_field("")


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(torch.zeros(1, 2, 3, 3))
