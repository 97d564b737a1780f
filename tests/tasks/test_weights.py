"""Weights of an earlier training: how files are read, what is fitted, drawn anew and refused."""

import pickle

import pytest
import safetensors.torch
import torch
from torch import nn

from lrtune import load_task
from lrtune.tasks.models import model_maker
from lrtune.tasks.weights import find_weights, pretrained
from tests.tasks.conftest import refused

NAME, SHAPE = "shufflenet_v2_x0_5", (3, 64, 64)


def prefixed(prefix, state):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


# What training scripts write, of a state_dict.
WRITTEN = {
    "plain.pt": lambda state, path: torch.save(state, path),
    "ours.safetensors": lambda state, path: safetensors.torch.save_file(state, path),
    "checkpoint.pth": lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path),
    "model.pt": lambda state, path: torch.save({"model": state, "step": torch.ones(1)}, path),
    "parallel.pt": lambda state, path: torch.save(prefixed("module.", state), path),
    "compiled.pt": lambda state, path: torch.save(prefixed("module._orig_mod.", state), path),
    "half.pt": lambda state, path: torch.save({n: t.half() for n, t in state.items()}, path),
}


@pytest.fixture(scope="module")
def trained():
    """A model of three classes."""
    torch.manual_seed(3)
    model = model_maker(NAME, SHAPE, 3, pretrained=True)()
    with torch.no_grad():
        model(torch.randn(16, *SHAPE))  # running statistics
    return model.eval()


@pytest.fixture(scope="module")
def file(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "three.pt"
    torch.save(trained.state_dict(), path)
    return path


def maker(path, name=NAME, classes=7):
    weights = find_weights(name, str(path), download=False)
    return pretrained(model_maker(name, SHAPE, classes, pretrained=True), name, weights)


@pytest.mark.parametrize("name", WRITTEN)
def test_every_form_of_a_file_gives_all_but_the_head(name, trained, tmp_path):
    WRITTEN[name](trained.state_dict(), tmp_path / name)
    make, note = maker(tmp_path / name)
    assert "in all layers but fc, which starts fresh in each trial" in note
    model = make()
    assert model.fc.weight.shape[0] == 7
    atol = 1e-2 if name == "half.pt" else 0
    for own, tensor in trained.state_dict().items():
        if not own.startswith("fc."):
            torch.testing.assert_close(model.state_dict()[own], tensor, atol=atol, rtol=0)


def test_the_seed_draws_the_head_and_reading_draws_nothing(file):
    state, heads = torch.get_rng_state(), []
    make, _ = maker(file)
    assert torch.equal(torch.get_rng_state(), state)
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        heads.append(pickle.loads(pickle.dumps(make))().fc.weight)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_a_head_of_the_same_width_is_kept(trained, file):
    make, note = maker(file, classes=3)
    assert note.endswith(") in all layers")
    assert torch.equal(make().fc.weight, trained.fc.weight)


def test_what_the_weights_of_torchvision_take(file):
    takes = find_weights("resnet18", str(file), download=False)
    assert takes.size == 224
    torch.testing.assert_close(
        takes.prepare(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8))[0, :, 0, 0],
        (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225]),
    )
    own = find_weights("cnn", str(file), download=False)
    assert own.size is None and own.prepare is None


def test_a_folder_is_fine_tuned(file, tmp_path, write_images):
    write_images(tmp_path / "photos", cat=25, dog=25)
    how = {"model": NAME, "weights": str(file)}
    task = load_task(str(tmp_path / "photos"), image_size=64, **how)
    assert (task.sample_shape, task.model_name) == (SHAPE, f"{NAME}-pretrained")
    assert task.notes[-1].startswith(f"weights from {file} (")
    assert task.prepare.mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert task.model()(task.prepare(task.train.first.inputs.expand(2, -1, -1, -1))).shape == (2, 2)
    assert load_task(str(tmp_path / "photos"), **how).sample_shape == (3, 224, 224)


def test_models_of_timm(tmp_path):
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("test_vit", num_classes=3).state_dict(), tmp_path / "vit.pt")
    weights = find_weights("timm:test_vit", str(tmp_path / "vit.pt"), download=False)
    shape = (3, weights.size, weights.size)
    make = model_maker("timm:test_vit", shape, 7, pretrained=True)
    make, note = pretrained(make, "timm:test_vit", weights)
    assert "all layers but head, which" in note
    assert make()(torch.zeros(2, *shape)).shape == (2, 7)
    make = model_maker("timm:test_resnet", (1, 32, 32), 5)
    assert make()(torch.zeros(2, 1, 32, 32)).shape[1] == 5
    with refused("timm:test_vti': timm has no such model; did you mean 'test_vit'"):
        model_maker("timm:test_vti", SHAPE, 3)
    with refused("Invalid pretrained tag"):
        model_maker("timm:resnet18.nonsense", SHAPE, 3)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, r"no such file, and of shufflenet_v2_x0_5 torchvision has default, IMAGE"),
        ({"epoch": 3}, "holds the keys epoch, expected tensors by name$"),
        ([torch.ones(1)], "holds list, expected tensors by name$"),
        (nn.Linear(1, 1), "cannot be read as tensors alone .*: save them by torch.save"),
        (
            model_maker("resnet18", SHAPE, 3)().state_dict(),
            r"do not fit shufflenet_v2_x0_5: \d+ tensors differ: the file has bn1.bias \(64,\), "
            r"bn1.running_mean \(64,\), .* where the model has conv1.0.weight \(24, 3, 3, 3\), ",
        ),
    ],
    ids=["missing", "nothing", "list", "pickle", "other"],
)
def test_files_that_are_refused(content, match, tmp_path):
    path = tmp_path / "weights.pt"
    if content is not None:
        torch.save(content, path)
    with refused(match):
        maker(path)


def test_what_is_not_fetched_unasked(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with refused(r"'default': .*\.pth is not there: give --download to fetch it, or a file$"):
        maker("default")
    with refused("of cnn torchvision has none$"):
        maker("default", "cnn")
    with refused(r"'imagenet1k_v2': no such file, and of .*; did you mean 'IMAGENET1K_V1'"):
        maker("imagenet1k_v2")
