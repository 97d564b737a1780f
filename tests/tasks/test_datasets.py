"""DATASETS and image folders: how they are split, and the folders that are refused."""

import shutil
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from lrtune.errors import InputError
from lrtune.tasks import DATASETS, load_task
from lrtune.tasks.data import SPLIT_SHARE
from lrtune.tasks.datasets import image_folder

SPLITS = ("train", "val", "test")


def rows(data):
    """Every sample with its label, as bytes; one list a split."""
    return [
        sorted(x.numpy().tobytes() + bytes([y]) for x, y in zip(*getattr(data, split), strict=True))
        for split in SPLITS
    ]


@pytest.mark.parametrize("name", ["digits", "breast_cancer", "wine"])
def test_splits_are_stratified(name):
    data = DATASETS[name](0)
    share = {"test": SPLIT_SHARE, "val": (1 - SPLIT_SHARE) * SPLIT_SHARE}
    share["train"] = 1 - sum(share.values())
    counts = {s: np.bincount(getattr(data, s).targets, minlength=len(data.classes)) for s in SPLITS}
    total = sum(counts.values())
    for split in SPLITS:
        assert abs(counts[split].sum() - share[split] * total.sum()) <= 2
        assert np.abs(counts[split] - share[split] * total).max() <= 2


def test_splits_are_no_larger_than_needed(monkeypatch):
    monkeypatch.setattr("lrtune.tasks.data.SPLIT_MOST", 150)
    data = DATASETS["digits"](0)
    assert [len(getattr(data, split).targets) for split in SPLITS] == [1497, 150, 150]
    assert data.test.targets.bincount().min() >= 14


def test_digits_are_all_there_and_in_one_split_each():
    raw = load_digits()
    whole = sorted(
        x.astype(np.uint8).tobytes() + bytes([y])
        for x, y in zip(raw.images, raw.target, strict=True)
    )
    assert sorted(chain.from_iterable(rows(DATASETS["digits"](0)))) == whole


def test_splits_depend_on_the_seed_alone():
    np.random.seed(1)
    first, again, other = (rows(DATASETS["digits"](seed)) for seed in (0, 0, 1))
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ({"": 25}, (32, 8, 10)),
        ({"train": 20, "test": 5}, (32, 8, 10)),
        ({"train": 20, "val": 6}, (32, 12, 8)),
        ({"train": 20, "val": 6, "test": 5}, (40, 12, 10)),
    ],
    ids=["flat", "train-test", "train-val", "train-val-test"],
)
def test_folder_layouts(given, sizes, tmp_path, write_images):
    for split, count in given.items():
        write_images(tmp_path / split, cat=count, dog=count)
    data = image_folder(tmp_path, seed=0)
    assert tuple(len(getattr(data, split).targets) for split in SPLITS) == sizes
    for split in SPLITS:
        inputs, targets = getattr(data, split)
        assert inputs.shape[1:] == (3, 8, 8)
        assert inputs.dtype == torch.uint8
        assert targets.bincount().tolist() == [len(targets) // 2] * 2
    prepared = data.prepare(data.train.inputs)
    torch.testing.assert_close(prepared.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(prepared.std((0, 2, 3), correction=0), torch.ones(3))
    assert len(set(chain.from_iterable(rows(data)))) == sum(sizes)  # no image twice
    assert rows(image_folder(tmp_path, seed=0)) == rows(data)
    assert (rows(image_folder(tmp_path, seed=1)) == rows(data)) == (len(given) == 3)


def test_hidden_folders_and_files_are_no_data(tmp_path, write_images):
    write_images(tmp_path, cat=25, dog=25)
    before = image_folder(tmp_path, seed=0)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "cat" / "._0.png").write_text("left by another system")
    (tmp_path / "cat" / "notes.txt").write_text("not an image either")
    after = image_folder(tmp_path, seed=0)
    assert (after.classes, rows(after)) == (("cat", "dog"), rows(before))


def test_labels_follow_the_sorted_class_names(tmp_path):
    colours = {"zebra": (200, 10, 60), "ant": (20, 30, 40), "Cat": (90, 0, 250)}
    for split in SPLITS:
        for name, colour in colours.items():
            (tmp_path / split / name).mkdir(parents=True)
            image = Image.new("RGB", (6, 4), colour)
            image.putpixel((5, 0), (0, 0, 0))  # at the top right
            image.save(tmp_path / split / name / "a.png")
    data = image_folder(tmp_path, seed=0)
    assert data.classes == ("Cat", "ant", "zebra")
    for split in SPLITS:
        inputs, targets = getattr(data, split)
        expected = torch.tensor([colours[data.classes[y]] for y in targets])
        expected = expected[:, :, None, None].repeat(1, 1, 4, 6)
        expected[:, :, 0, 5] = 0
        assert torch.equal(inputs.long(), expected)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: (r / "train/eel").mkdir(), "/train: Found no valid file for the classes eel"),
        (lambda r: (r / "test/dog/x.png").write_text("hello"), r"test/dog/x\.png: .* mend or rem"),
        (lambda r: truncate(r / "train/cat/1.jpg"), r"cat/1\.jpg: not a readable image .*truncat"),
        (lambda r: truncate(r / "train/cat/9.png"), r"cat/9\.png: not a readable image .*truncat"),
        (lambda r: shutil.rmtree(r / "train/dog"), r"/train: a single class \(cat\)"),
        (
            lambda r: (r / "test/dog").rename(r / "test/fox"),
            "train/ and test/ differ in their classes: 'dog' is in one of them only",
        ),
        (
            lambda r: (r / "train").rename(r / "training"),
            "has val/ and test/ but no train/: .* CLASS/",
        ),
        (
            lambda r: (r / "val").rename(r / "validation"),
            "validation/ beside train/: expected train, val and test alone",
        ),
        (
            lambda r: Image.new("L", (9, 8)).save(r / "train/dog/big.png"),
            r"train/dog/big\.png: 9x8 pixels, .*train/cat/0\.jpg 8x8: resize",
        ),
        (
            lambda r: [Image.new("L", (8, 9)).save(p) for p in r.glob("test/*/*")],
            r"differ in image size: .*9, 8.*: resize",
        ),
        (lambda r: shutil.rmtree(r), "neither a folder of images"),
        (lambda r: [p.unlink() for p in r.glob("train/*/*")], "/train: Found no valid file"),
        (
            lambda r: [shutil.rmtree(p) for p in r.glob("train/*")],
            "/train: holds no folders of images",
        ),
    ],
)
def test_folders_refused(spoil, message, tmp_path, write_images):
    for split in SPLITS:
        write_images(tmp_path / split, cat=10, dog=10)
    spoil(tmp_path)
    with pytest.raises(InputError, match=message):
        load_task(str(tmp_path))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"cat": 30, "dog": 1}, r"class 'dog' has 1 sample.*: too few to split: add .* val/"),
        ({"cat": 3, "dog": 3, "eel": 3}, "cannot be split by class: .*: add .* val/"),
    ],
)
def test_too_few_samples_to_split(counts, message, tmp_path, write_images):
    with pytest.raises(InputError, match=message):
        image_folder(write_images(tmp_path, **counts), seed=0)
