import torch

from convatlas import models
from convatlas.data.transforms.normalize import Normalizer
from convatlas.optim.losses import CrossEntropy
from convatlas.training.objective import Objective


def test_a_step_that_is_not_taken_leaves_the_running_statistics_as_they_were() -> None:
    model = models.create_model("resnet20_cifar", width=0.25).train()
    objective = Objective(model, Normalizer(torch.zeros(3, 1, 1), torch.ones(3, 1, 1)), CrossEntropy())
    before = {name: b.clone() for name, b in model.named_buffers()}
    objective.snapshot_statistics()
    objective(torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8), torch.arange(8))
    assert any(not torch.equal(b, before[name]) for name, b in model.named_buffers())
    objective.restore_statistics()
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
