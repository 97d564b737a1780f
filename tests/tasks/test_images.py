"""Image folders: layouts, what is refused, what is changed and said, memory and streams."""

import os
import shutil
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate
from torchvision import transforms

from lrtune.tasks import images
from lrtune.tasks.images import image_folder
from lrtune.tasks.options import TaskOptions
from lrtune.tasks.splits import Split, Stream
from lrtune.tasks.stream import take
from tests.tasks.conftest import SPLITS, refused


def read(root, **options):
    return image_folder(root, TaskOptions(**options))


@pytest.fixture
def three(tmp_path, write_images):
    """A folder of three splits, of ten cats and ten dogs each."""
    for split in SPLITS:
        write_images(tmp_path / split, cat=10, dog=10)
    return tmp_path


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
def test_folder_layouts(given, sizes, tmp_path, write_images, rows):
    for split, count in given.items():
        write_images(tmp_path / split, cat=count, dog=count)
    data = read(tmp_path)
    assert tuple(len(getattr(data, split).targets) for split in SPLITS) == sizes
    for split in SPLITS:
        inputs, targets = getattr(data, split)
        assert (inputs.shape[1:], inputs.dtype) == ((3, 8, 8), torch.uint8)
        assert targets.bincount().tolist() == [len(targets) // 2] * 2
    prepared = data.prepare(data.train.inputs)
    torch.testing.assert_close(prepared.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(prepared.std((0, 2, 3), correction=0), torch.ones(3))
    assert len(set(chain.from_iterable(rows(data)))) == sum(sizes)  # no image twice
    assert rows(read(tmp_path)) == rows(data)
    assert (rows(read(tmp_path, seed=1)) == rows(data)) == (len(given) == 3)


def test_hidden_and_other_files_are_no_data(tmp_path, write_images, rows):
    write_images(tmp_path, cat=25, dog=25)
    before = read(tmp_path)
    assert (before.name, before.kind, before.outputs) == (tmp_path.name, "classification", 2)
    assert (before.defaults, before.notes) == (images.DEFAULTS, ())
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "cat" / "._0.png").write_text("left by another system")
    (tmp_path / "cat" / ".ipynb_checkpoints").mkdir()
    shutil.copy(tmp_path / "cat" / "3.png", tmp_path / "cat" / ".ipynb_checkpoints")
    after = read(tmp_path)
    assert (after.outputs, rows(after), after.notes) == (2, rows(before), ())
    for name in ("a.gif", "b.GIF", "README"):
        (tmp_path / "dog" / name).write_text("no image")
    after = read(tmp_path)
    assert after.notes == ("3 other files left out (.gif, no extension)",)
    assert rows(after) == rows(before)


def test_labels_follow_the_sorted_class_names(tmp_path):
    colours = {"zebra": (200, 10, 60), "ant": (20, 30, 40), "Cat": (90, 0, 250)}
    for split in SPLITS:
        for name, colour in colours.items():
            (tmp_path / split / name).mkdir(parents=True)
            image = Image.new("RGB", (6, 4), colour)
            image.putpixel((5, 0), (0, 0, 0))  # at the top right
            image.save(tmp_path / split / name / "a.png")
    for inputs, targets in (getattr(read(tmp_path), split) for split in SPLITS):
        expected = torch.tensor([colours[("Cat", "ant", "zebra")[y]] for y in targets])
        expected = expected[:, :, None, None].repeat(1, 1, 4, 6)
        expected[:, :, 0, 5] = 0
        assert torch.equal(inputs.long(), expected)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def deep(dtype):
    """Not to be clipped."""
    return Image.fromarray((np.arange(64).reshape(8, 8) * 1000).astype(dtype))


def resize(paths, size):
    for path in paths:
        Image.new("L", size).save(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: (r / "train/eel").mkdir(), r"class 'eel' holds no images: expected .*\.webp"),
        (lambda r: (r / "test/dog/x.png").write_text("hello"), r"dog/x\.png: .* mend .*--skip-bad"),
        (lambda r: os.mkfifo(r / "test/dog/p.png"), r"dog/p\.png: .*\(no regular file\)"),
        (lambda r: truncate(r / "train/cat/1.jpg"), r"cat/1\.jpg: not a readable image .*truncat"),
        (lambda r: truncate(r / "train/cat/9.png"), r"cat/9\.png: not a readable image .*truncat"),
        (lambda r: shutil.rmtree(r / "train/dog"), r"/train: a single class \(cat\)"),
        (lambda r: (r / "test/dog").rename(r / "test/fox"), "'dog' is in one of train/ and test/"),
        (lambda r: (r / "train").rename(r / "tra"), "val/ and test/, no train/: .* CLASS/"),
        (lambda r: (r / "val").rename(r / "dev"), "dev/ beside train/: expected train, val and t"),
        (lambda r: resize([r / "train/dog/z.png"], (9, 8)), r"dog/z\.png: 9x8 .*cat/0\.jpg 8x8:"),
        (lambda r: resize(r.glob("val/*/*"), (8, 9)), r"val/cat/0\.jpg: 8x9 .*--image-size N"),
        (lambda r: deep(np.uint16).save(r / "val/cat/deep.tif"), r"deep\.tif: more than 8 bits"),
        (lambda r: deep(np.float32).save(r / "val/cat/deep.tif"), "more than 8 bits .*: save"),
        (lambda r: [p.unlink() for p in r.glob("train/*/*")], "/train: class 'cat' holds no im"),
        (lambda r: [shutil.rmtree(p) for p in r.glob("train/*")], "holds no folders of images"),
    ],
)
def test_folders_refused(spoil, message, three):
    spoil(three)
    with refused(message):
        read(three)


def test_too_few_samples_to_split(tmp_path, write_images):
    with refused(r"class 'dog' has 1 sample.*: too few to split: add .* v"):
        read(write_images(tmp_path / "one", cat=30, dog=1))
    with refused(r"too few samples to split: .*: add .* val "):
        read(write_images(tmp_path / "few", cat=3, dog=3, eel=3))


@pytest.mark.parametrize("layout", [{""}, {"train", "test"}, set(SPLITS)], ids=len)
def test_streamed_equals_resident(layout, tmp_path, write_images, monkeypatch):
    for split in layout:
        write_images(tmp_path / split, cat=25, dog=25)
    resident = read(tmp_path)
    streamed = read(tmp_path, memory="1KB")
    for split in SPLITS:
        here, there = getattr(resident, split), getattr(streamed, split)
        assert (type(here), type(there)) == (Split, Stream)
        assert (there.samples, there.sample_bytes) == (here.samples, here.sample_bytes)
        for one, same in zip(take(there, range(there.samples)), here, strict=True):
            assert torch.equal(one, same)
        assert np.array_equal(there.hashes, here.hashes)
        assert torch.equal(there.labels, here.labels)
    assert torch.equal(streamed.prepare.mean, resident.prepare.mean)
    assert torch.equal(streamed.prepare.std, resident.prepare.std)
    monkeypatch.setattr("lrtune.tasks.images.MEASURED", 8)  # of a large one, a spread share
    some = take(streamed.train, np.linspace(0, streamed.train.samples - 1, 8).round().astype(int))
    mean = some.inputs.double().mean((0, 2, 3)).float()
    torch.testing.assert_close(images.normalize(streamed.train).mean.flatten(), mean)


def test_one_memory_limit_for_all_splits(three):
    """Of 20 images of 200 bytes each."""
    for memory, train in (("8500B", Stream), ("12500B", Split)):
        data = read(three, memory=memory)
        assert [type(getattr(data, split)) for split in SPLITS] == [train, Split, Split]


@pytest.mark.parametrize("memory", [None, "1KB"])
def test_bad_images_are_left_out_where_asked(memory, tmp_path, write_images):
    write_images(tmp_path, cat=25, dog=25)
    (tmp_path / "cat" / "3.png").write_text("hello")
    truncate(tmp_path / "dog" / "7.png")
    with refused(r"cat/3\.png: not a readable image .*--skip-bad"):
        read(tmp_path, memory=memory)
    data = read(tmp_path, memory=memory, skip_bad=True)
    assert sum(getattr(data, split).samples for split in SPLITS) == 48
    (note,) = [note for note in data.notes if "left out" in note]
    assert note.startswith("2 of 50 images left out: cannot be read (first: ")
    assert "cat/3.png: not a readable image (cannot identify" in note


@pytest.mark.parametrize("part", SPLITS)
def test_skipping_leaves_out_no_class(part, three):
    for file in (three / part / "dog").iterdir():
        truncate(file)
    with refused(f"/{part}: class 'dog' has no readable image: mend or rem"):
        read(three, skip_bad=True)


def photo(width, height):
    """Not symmetric, with sharp edges."""
    rng = np.random.default_rng(width)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_image_size_is_torchvisions_resize_and_centre_crop(tmp_path):
    sizes = [(17, 31), (40, 20), (12, 12), (9, 14)]
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(20):
            photo(*sizes[i % 4]).save(tmp_path / name / f"{i:02}.png")
    data = read(tmp_path, image_size=12)
    practice = transforms.Compose([transforms.Resize(12), transforms.CenterCrop(12)])
    expected = default_collate(
        [torch.from_numpy(np.array(practice(photo(*size)))).permute(2, 0, 1) for size in sizes]
    )
    seen = torch.cat([getattr(data, split).inputs for split in SPLITS])
    assert seen.shape == (40, 3, 12, 12)
    for one in expected:
        assert (seen == one).flatten(1).all(1).sum() == 10


def test_other_modes_are_made_rgb(tmp_path, write_images, rows):
    write_images(tmp_path / "grey", cat=25, dog=25)
    assert rows(read(tmp_path / "grey", image_size=8)) == rows(read(tmp_path / "grey"))
    for name in ("cat", "dog"):
        (tmp_path / "mixed" / name).mkdir(parents=True)
    for i, mode in enumerate(["L", "RGBA", "P", "1", "CMYK", "LA", *["RGB"] * 34]):
        image = photo(8, 8).convert(mode)
        if mode == "P":
            image.info["transparency"] = bytes(range(256))  # PIL warns of it
        suffix = "jpg" if mode == "CMYK" else "png"
        image.save(tmp_path / "mixed" / ("cat", "dog")[i % 2] / f"{i}.{suffix}")
    assert read(tmp_path / "mixed").train.inputs.shape[1:] == (3, 8, 8)
