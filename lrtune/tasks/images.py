"""Image folders; and how any images with labels become Data."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lrtune.errors import InputError
from lrtune.tasks.data import Data
from lrtune.tasks.metrics import METRICS
from lrtune.tasks.options import TaskOptions
from lrtune.tasks.parts import SPLITS, hold_all, labels, normalize, three_parts
from lrtune.tasks.pictures import (
    Files,
    Header,
    Images,
    Mode,
    Source,
    check_depth,
    check_size,
    headers,
)
from lrtune.tasks.split import Split, Stream, check_labels
from lrtune.tasks.text import slug

DEFAULTS: dict[str, Any] = {"model": "cnn", "batch_size": 128, "epochs": 10.0}


def image_folder(root: Path, options: TaskOptions) -> Data:
    """Images in torchvision's ``ImageFolder`` layout, as RGB.

    Args:
        root: holds ``train/CLASS/*`` and ``test/CLASS/*``, ``val/CLASS/*`` too where there is one;
            or ``CLASS/*`` alone, which is split in three.
        options: ``image_size``, ``skip_bad``, ``memory``, and ``seed`` of the splits made here.

    Raises:
        InputError: a split with other classes, an empty class, one class, an unreadable image,
            images of different sizes or of more than 8 bits.
    """
    parts = {name: root / name for name in SPLITS if (root / name).is_dir()}
    if parts and "train" not in parts:
        raise InputError(
            f"{root}: has {'/ and '.join(parts)}/ but no train/: "
            "give train/CLASS/*, or CLASS/* alone to have it split"
        )
    beside = [name for name in _subfolders(root) if parts and name not in parts]
    if beside:
        raise InputError(f"{root}: {beside[0]}/ beside train/: expected train, val and test alone")
    parts = parts or {"train": root}
    classes = {name: _classes(folder) for name, folder in parts.items()}
    others = Counter[str]()
    files = {name: _files(folder, classes[name], others) for name, folder in parts.items()}
    check_classes(str(root), classes)
    sources = {name: Source(files[name], str(parts[name]), files[name].where) for name in parts}
    data = image_data(
        slug(root.resolve().name),
        f"image folder {root}",
        sources,
        classes["train"],
        options,
        mode="RGB",
    )
    if not others:
        return data
    are = "file" if others.total() == 1 else "files"
    note = f"{others.total():,} other {are} left out ({_each(others)})"
    return replace(data, notes=(note, *data.notes))


def image_data(
    name: str,
    source: str,
    sources: dict[str, Source],
    classes: Sequence[str] | None,
    options: TaskOptions,
    *,
    mode: Mode | None = None,
    defaults: dict[str, Any] | None = None,
) -> Data:
    """Read the splits that there are, and cut the others off the training split.

    Args:
        name: of the task.
        source: for the record.
        sources: train, and val and test where there are.
        classes: their names; as many as there are labels where None.
        options: ``image_size``, ``skip_bad``, ``memory``, ``seed``.
        mode: of the stored images; where None, grey if all are, else RGB.
        defaults: Task fields, beside DEFAULTS.

    Raises:
        InputError: an unreadable image, a class without a readable one, a label of no class,
            images of different sizes or of more than 8 bits.
    """
    found = {part: headers(one.dataset) for part, one in sources.items()}
    if mode is None:
        modes = {header.mode for few in found.values() for header in few.values()}
        mode = "L" if modes and modes <= {"1", "L"} else "RGB"
    like = _check(sources, found, options.image_size)
    images = {part: Images(one, mode, options.image_size, like) for part, one in sources.items()}
    held, bad = hold_all(images, options)
    outputs = len(classes) if classes else 1 + max(int(labels(s).max()) for s in held.values())
    if bad:
        _check_classes_left(sources, held, classes or list(map(str, range(outputs))))
    check_labels(name, outputs, held)
    splits = three_parts(sources["train"].name, held, options.seed, classes or ())
    count = sum(map(len, images.values()))
    notes = _changes(found, count, mode, options.image_size)
    if bad:
        notes.append(f"{len(bad):,} of {count:,} images left out: cannot be read (first: {bad[0]})")
    return Data(
        name=name,
        source=source,
        kind="classification",
        metrics=METRICS["classification"],
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        outputs=outputs,
        prepare=normalize(splits["train"]),
        defaults=DEFAULTS | (defaults or {}),
        notes=tuple(notes),
    )


def check_classes(source: str, classes: dict[str, list[str]]) -> None:
    """Refuse splits whose classes differ."""
    for part, theirs in classes.items():
        odd = sorted(set(theirs) ^ set(classes["train"]))
        if odd:
            raise InputError(
                f"{source}: train/ and {part}/ differ in their classes: "
                f"{odd[0]!r} is in one of them only"
            )


def _check(
    sources: dict[str, Source], found: dict[str, dict[int, Header]], side: int | None
) -> tuple[tuple[int, int], str] | None:
    """Refuse what should not be decoded; else the size that all have, and which image has it."""
    like = None
    for part, source in sources.items():
        for row, header in found[part].items():
            check_depth(source.where(row), header.mode)
            if side is not None:
                continue
            like = like or (header.size, source.where(row))
            if header.size != like[0]:
                check_size(source.where(row), header.size, *like)
    return like


def _check_classes_left(
    sources: dict[str, Source], held: dict[str, Split | Stream], classes: Sequence[str]
) -> None:
    """Refuse to leave out all images of a class."""
    for part, split in held.items():
        there = set(labels(split).tolist())
        lost = [name for number, name in enumerate(classes) if number not in there]
        if lost:
            raise InputError(
                f"{sources[part].name}: class {lost[0]!r} has no readable image: mend some, or "
                "remove the class"
            )


def _changes(
    found: dict[str, dict[int, Header]], count: int, mode: Mode, side: int | None
) -> list[str]:
    every = [header for part in found.values() for header in part.values()]
    others = Counter(h.mode for h in every if h.of_file and h.mode != mode)
    notes = []
    if others:
        made = "RGB" if mode == "RGB" else "grey"
        notes.append(f"{others.total():,} of {count:,} images made {made} ({_each(others)})")
    if side is not None and any(header.size != (side, side) for header in every):
        oblong = any(header.size[0] != header.size[1] for header in every)
        centre = ", and the centre cut out" if oblong else ""
        notes.append(f"all images resized to {side}x{side} pixels{centre}")
    return notes


def _each(counts: Counter[str]) -> str:
    """The most frequent first."""
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return ", ".join(f"{name} {n:,}" for name, n in ordered)


def _files(folder: Path, classes: list[str], others: Counter[str]) -> Files:
    """The images of a split; the files that are none, hidden ones apart, are added to others."""
    from torchvision.datasets import ImageFolder
    from torchvision.datasets.folder import IMG_EXTENSIONS

    def is_image(path: str) -> bool:
        if any(name.startswith(".") for name in Path(path).relative_to(folder).parts):
            return False
        found = path.lower().endswith(IMG_EXTENSIONS)
        if not found:
            others[Path(path).suffix.lower() or "no extension"] += 1
        return found

    numbers = {name: number for number, name in enumerate(classes)}
    samples = ImageFolder.make_dataset(
        str(folder), numbers, is_valid_file=is_image, allow_empty=True
    )
    empty = sorted(set(classes) - {classes[label] for _, label in samples})
    if empty:
        raise InputError(
            f"{folder}: class {empty[0]!r} holds no images: expected files in "
            f"{', '.join(IMG_EXTENSIONS)}"
        )
    return Files([path for path, _ in samples], [label for _, label in samples])


def _classes(folder: Path) -> list[str]:
    classes = _subfolders(folder)
    if not classes:
        raise InputError(f"{folder}: holds no folders of images, one a class")
    if len(classes) < 2:
        raise InputError(f"{folder}: a single class ({classes[0]}): nothing to tell apart")
    return classes


def _subfolders(folder: Path) -> list[str]:
    """Names, sorted; hidden ones (.git, .ipynb_checkpoints) are no classes."""
    entries = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return sorted(entry.name for entry in entries if entry.is_dir())
