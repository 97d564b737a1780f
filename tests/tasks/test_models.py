"""MODELS and Normalize: outputs per class, for small and large images; every weight is used."""

import pytest
import torch
from torch.nn import functional as F

from lrtune.tasks import MODELS, load_task


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 24), (3, 32, 32)])
def test_one_output_a_class(name, shape):
    model = MODELS[name](shape, 7)
    outputs = model(torch.rand(5, *shape))
    assert outputs.shape == (5, 7)
    F.cross_entropy(outputs, torch.arange(5)).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


def test_normalize_is_by_the_training_images_alone():
    task = load_task("digits")
    train, val = task.prepare(task.train.inputs), task.prepare(task.val.inputs)
    assert train.dtype == torch.float32
    torch.testing.assert_close(train.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.std(correction=0), torch.tensor(1.0))
    assert abs(val.mean()) > 1e-4
