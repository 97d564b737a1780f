"""Nonsense for input: options, schedules, tables, texts, images, logs and checkpoints of others."""

import contextlib
import gzip
import io
import json
import random
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from damage import NASTY, Hang, changed, mutated, no_hang
from PIL import Image

from lrtune.doctor import examine, findings
from lrtune.errors import InputError
from lrtune.run.study_file import StudyFile, check, read_study
from lrtune.schedule import FAMILIES, Schedule, load, parse
from lrtune.tasks import load_task
from lrtune.tasks.options import validate

WORDS = ("cosine", "wsd", "digits", "adamw:weight_decay=0.1", "1e-3", "10m", "-1", "nan", "inf")
CELLS = (
    "1",
    "2.5",
    "-3e5",
    "yes",
    "no",
    "",
    "NA",
    "2024-01-05",
    "05/01/2024",
    "a;b",
    '"',
    "ü",
    "\0",
)
CELLS += ("1e999", "9" * 400, " ", "x" * 300, "1,5", "=1+1", "true", "None", "12:30", "<b>")


def tried(use: Callable[[], object]) -> tuple[str, str]:
    """Whether it was taken or refused; anything but an InputError is a defect."""
    try:
        with no_hang(), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            use()
    except InputError as error:
        return "refused", "" if str(error).strip() else "an error that says nothing"
    except Hang:
        return "hang", "hang"
    except BaseException as error:
        *_, last = traceback.extract_tb(error.__traceback__)
        where = f"{Path(last.filename).name}:{last.lineno}"
        return "traceback", f"{type(error).__name__}: {str(error)[:200]} ({where})"
    return "taken", ""


def options(rng: random.Random) -> tuple[str, str]:
    """Keys of a study file with values of all kinds."""
    names = rng.sample([*StudyFile.model_fields, "nonsense"], rng.randint(1, 4))
    keys = {name: rng.choice([*NASTY, *WORDS, [rng.choice(WORDS)], [0.1, 1.0]]) for name in names}
    keys.setdefault("task", "digits")
    return tried(lambda: check(validate(StudyFile, keys, "attack")))


def study_file(rng: random.Random) -> tuple[str, str]:
    """A study file with bytes changed."""
    path = rng.choice(sorted(Path(__file__).parents[2].glob("studies/*.toml")))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "study.toml")
        file.write_bytes(mutated(path.read_bytes(), rng))
        return tried(lambda: check(validate(StudyFile, read_study(file), "attack")))


def drawn_text(rng: random.Random) -> str:
    family = FAMILIES[rng.choice([*FAMILIES])]
    names = [*(knob.name for knob in family.knobs), "peak_lr", "warmup", "warmup_start", "nonsense"]
    values = [*WORDS, "0", "1", "0.5", "1e-300", "1e300", "", "0.1/0.5/0.9", "linear", "x" * 9999]
    parts = [f"{rng.choice(names)}={rng.choice(values)}" for _ in range(rng.randint(0, 4))]
    return f"{family.name}:{','.join(parts)}"


def schedule(rng: random.Random) -> tuple[str, str]:
    """A schedule as text, or as the JSON of one with keys changed."""
    text = drawn_text(rng)
    if rng.random() < 0.5:
        text = mutated(text.encode(), rng).decode(errors="replace")

    def use() -> None:
        found = parse(text)
        if rng.random() < 0.5:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "schedule.json")
                file.write_bytes(
                    rng.choice([changed, lambda t, r: mutated(t.encode(), r)])(found.to_json(), rng)
                )
                found = load(file)
        total = rng.choice([1, 2, 7, 100])
        rates = found.controller(total).rates if found.closed_loop else found.rates(total)
        assert np.isfinite(rates).all() and (rates > 0).all(), f"rates of {found}"
        assert Schedule.from_json(found.to_json()) == found, f"JSON of {found}"

    return tried(use)


def table(rng: random.Random) -> tuple[str, str]:
    """A table, most of which is sound: a few odd cells, heads that repeat, bytes changed."""
    rows, nasty = rng.choice([0, 1, 30, 60, 60]), rng.choice([0.0, 0.02, 0.5])
    heads = ["target", *rng.sample(["x", "day", "a b", "ü", "x" * 300, "", "x.1", "words"], 3)]
    if rng.random() < 0.1:
        heads[1] = rng.choice(heads)
    kinds = [rng.choice([("0", "1"), ("1.5", "2", "3"), ("a", "b"), CELLS[6:8]]) for _ in heads]

    def cell(kind: tuple[str, ...]) -> str:
        return rng.choice(CELLS) if rng.random() < nasty else rng.choice(kind)

    line = rng.choice([",", ",", ";", "\t"]).join
    text = "\n".join([line(heads), *(line(map(cell, kinds)) for _ in range(rows))])
    encoding = rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"])
    content = text.encode(encoding, "replace")
    content = mutated(content, rng) if rng.random() < 0.2 else content
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, rng.choice(["t.csv"] * 4 + ["t.tsv", "t.csv.gz", "t.parquet"]))
        if rng.random() < 0.9 and file.suffix == ".gz":
            content = gzip.compress(content)
        if rng.random() < 0.9 and file.suffix == ".parquet":
            cells = {
                head: [cell(kind) for _ in range(rows)]
                for head, kind in zip(heads, kinds, strict=True)
            }
            content = pd.DataFrame(cells).to_parquet()
        file.write_bytes(content)
        target = rng.choice(["target"] * 4 + [*heads, "nonsense"])
        return tried(lambda: load_task(str(file), target=target, epochs=1.0))


def text(rng: random.Random) -> tuple[str, str]:
    """A text of any bytes."""
    words = "".join(rng.choice("ab \nüß€🎉\0") for _ in range(rng.choice([0, 1, 100, 5000])))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, rng.choice(["t.txt", "t", "t.py", "t.bin"]))
        content = words.encode()
        file.write_bytes(mutated(content, rng) if rng.random() < 0.5 else content)
        given = {"epochs": 1.0, "context": rng.choice([2, 8, 4000])}
        given |= {"tokens": rng.choice(["char", "byte"])}
        return tried(lambda: load_task(str(file), **given))


def images(rng: random.Random) -> tuple[str, str]:
    """Class folders, most of whose images are alike and sound."""
    odd = rng.choice([0.0, 0.03, 0.3])
    with tempfile.TemporaryDirectory() as place:
        names = ["cat", "dog"] + [n for n in (".git", "ü", "train", "x.png") if rng.random() < odd]
        for label in names:
            (Path(place) / label).mkdir()
            for number in range(rng.choice([0, 1]) if rng.random() < odd else 9):
                mode = rng.choice(["L", "RGBA", "P", "I;16"]) if rng.random() < odd else "RGB"
                size = rng.choice([(1, 1), (8, 9), (300, 2)]) if rng.random() < odd else (8, 8)
                file = io.BytesIO()
                Image.new(mode, size, number).save(file, "png")
                content = file.getvalue()
                content = mutated(content, rng) if rng.random() < odd else content
                ending = rng.choice(["jpg", "txt", ""]) if rng.random() < odd else "png"
                (Path(place) / label / f"{number}.{ending}").write_bytes(content)
        given: dict[str, Any] = {"epochs": 1.0, "skip_bad": rng.random() < 0.5}
        given |= {"batch_size": 4} if rng.random() < 0.9 else {}
        given |= {"image_size": rng.choice([1, 8, 16])} if rng.random() < 0.5 else {}
        return tried(lambda: load_task(place, **given))


STATES: tuple[dict[str, Any], ...] = (
    {"T_0": 5, "T_mult": 1, "eta_min": 0.0},
    {"step_size": 3, "gamma": 0.5},
    {"T_max": 9, "eta_min": 0.0},
    {"milestones": {3: 1}, "gamma": 0.1},
    {"_milestones": [3], "_schedulers": [{"gamma": 0.9, "last_epoch": 2, "_last_lr": [0.1]}]},
    {"total_iters": 4, "power": 2.0},
)


def log(rng: random.Random) -> tuple[str, str]:
    """A log or a checkpoint of a scheduler, for the doctor."""
    with tempfile.TemporaryDirectory() as folder:
        if rng.random() < 0.5:
            state = {**rng.choice(STATES), "last_epoch": 7, "base_lrs": [0.1], "_last_lr": [0.01]}
            for _ in range(rng.randint(0, 2)):
                state[rng.choice([*state])] = rng.choice([*NASTY, torch.zeros(2)])
            file = Path(folder, "last.pt")
            torch.save({"scheduler": state}, file)
            if rng.random() < 0.3:
                file.write_bytes(mutated(file.read_bytes(), rng))
        else:
            lines = [f"{step},{rng.choice([0.1, 0.05, 'nan', '', 'x', -1, 1e300])}\n" for step in
                     rng.choices(range(100), k=rng.choice([0, 1, 5, 60]))]  # fmt: skip
            history = [{"step": n, "learning_rate": rng.choice([0.1, None, "x"])} for n in range(5)]
            name, content = rng.choice(
                [
                    ("metrics.csv", "step,lr\n" + "".join(lines)),
                    ("trainer_state.json", json.dumps({"log_history": history})),
                    ("log.jsonl", "\n".join(map(json.dumps, history))),
                ]
            )
            file = Path(folder, name)
            raw = content.encode()
            file.write_bytes(mutated(raw, rng) if rng.random() < 0.5 else raw)
        return tried(lambda: [*map(findings, examine(file))])


ATTACKS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "options": options,
    "study files": study_file,
    "schedules": schedule,
    "tables": table,
    "texts": text,
    "image folders": images,
    "logs and checkpoints": log,
}
