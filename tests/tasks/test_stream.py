"""hold: what is kept, what is streamed, what is refused, and what is left alone."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from lrtune.errors import InputError
from lrtune.tasks import stream
from lrtune.tasks.splits import Split, Stream
from lrtune.tasks.stream import BadSample, hold, read_splits, take
from tests.tasks.conftest import refused

BIG = 10**9


class Rows(Dataset):
    """``function(row)`` for each row."""

    def __init__(self, count, function):
        self.count, self.function = count, function

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        return self.function(row)


def plain(row):
    return torch.tensor([row, 2 * row], dtype=torch.float32), row % 3


def nested(row):
    return {"a": torch.tensor([row]), "b": (torch.tensor(row / 7), row)}, torch.tensor([row, 0])


def drawing(row):
    """From each of the generators that data sets draw from."""
    draws = [torch.rand(()).item(), random.random(), np.random.rand()]
    return torch.tensor([row, *draws]), row % 2


def bad_threes(row):
    if row % 3 == 0 or row in range(64, 128):  # a whole batch of them too
        raise BadSample(f"file {row}: not a readable image")
    return plain(row)


def same(one, other):
    """Both splits hold the same bits."""
    return np.array_equal(one.hashes, other.hashes) and one.samples == other.samples


@pytest.mark.parametrize("function", [plain, nested])
def test_kept_where_it_fits_else_streamed(function):
    dataset = Rows(100, function)
    kept, _ = hold("x", dataset, BIG)
    streamed, _ = hold("x", dataset, 100)
    assert (type(kept), type(streamed)) == (Split, Stream)
    assert same(kept, streamed)
    assert kept.sample_bytes == streamed.sample_bytes
    exact = 100 * kept.sample_bytes
    kinds = [type(hold("x", dataset, memory)[0]) for memory in (exact, exact - 1)]
    assert kinds == [Split, Stream]
    rows = [7, 3, 99]
    assert np.array_equal(take(streamed, rows).hashes, kept.take(rows).hashes)


def test_labels_are_kept_where_they_are_whole_numbers():
    assert hold("x", Rows(100, plain), 1)[0].labels.tolist() == [row % 3 for row in range(100)]
    assert hold("x", Rows(100, lambda row: (plain(row)[0], row / 2)), 1)[0].labels is None
    # Masks are known by their distinct values.
    split, _ = hold("x", Rows(200, lambda row: (torch.zeros(1), torch.tensor([row % 3, 7]))), 1)
    assert split.labels.tolist() == [[0, 1, 2, 7]]


def test_workers_change_nothing(monkeypatch):
    def read(workers):
        monkeypatch.setattr(stream, "worker_count", lambda size, busy=1: workers)
        monkeypatch.setattr(stream, "FEW", 100)
        count = stream.FEW + 70
        given = ((plain, BIG), (drawing, BIG))
        return [hold("x", Rows(count, function), memory)[0] for function, memory in given]

    with_workers, without = read(2), read(0)
    assert all(same(one, other) for one, other in zip(with_workers, without, strict=True))
    inputs = torch.stack([plain(row)[0] for row in range(len(with_workers[0].inputs))])
    assert torch.equal(with_workers[0].inputs, inputs)
    split, _ = hold("x", TensorDataset(inputs, inputs[:, 0]), BIG)  # torch's own
    assert torch.equal(split.inputs, inputs)


def test_a_random_data_set_is_streamed_and_follows_the_seeds():
    split, _ = hold("x", Rows(40, drawing), BIG)
    assert isinstance(split, Stream)
    assert same(split, hold("x", Rows(40, drawing), BIG)[0])
    plan = [(seed, [3, 1, 2]) for seed in (5, 5, 6)]
    first, again, other = (batch.inputs for batch in read_splits(split, plan, 0))
    assert torch.equal(first, again)
    assert torch.equal(first[:, 0], other[:, 0])
    assert (first[:, 1:] != other[:, 1:]).all()
    for one, there in zip(read_splits(split, plan, 1), (first, again, other), strict=True):
        assert torch.equal(one.inputs, there)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_callers_generators_are_left_alone(workers, monkeypatch):
    monkeypatch.setattr(stream, "worker_count", lambda size, busy=1: workers)
    monkeypatch.setattr(stream, "FEW", 10)

    draws = []
    for read in (False, True):
        for seed in (torch.manual_seed, random.seed, np.random.seed):
            seed(1)
        if read:
            hold("x", Rows(100, drawing), BIG)
        draws.append((torch.rand(3).tolist(), random.random(), np.random.rand(3).tolist()))
    assert draws[0] == draws[1]


@pytest.mark.parametrize("memory", [BIG, 1])
def test_bad_samples(memory):
    dataset = Rows(200, bad_threes)
    with refused(r"^file 0: not a readable .*: mend or remove it, .*-skip"):
        hold("x", dataset, memory)
    split, bad = hold("x", dataset, memory, skip_bad=True)
    good = [row for row in range(200) if row % 3 and row not in range(64, 128)]
    rows = list(range(len(good)))
    some = take(split, rows) if isinstance(split, Stream) else split.take(rows)
    assert some.inputs[:, 0].tolist() == good
    assert split.samples == len(split.hashes) == len(split.labels) == len(good)
    assert bad == [f"file {r}: not a readable image" for r in range(200) if r not in good]


def odd(value):
    """One row is another, or an error."""

    def function(row):
        if row == 70 and isinstance(value, Exception):
            raise value
        return value if row == 70 else plain(row)

    return function


NAN = torch.tensor([1.0, float("nan")])
LATER = "x: samples from 64 on are .*"


REFUSED = [
    (odd(InputError("a.png: 9x8 pixels")), r"x: a\.png: 9x8 pixels"),
    (odd(KeyError("age")), "x: sample 70: KeyError: 'age'"),
    (odd((torch.zeros(3), 0)), "x: samples 64 to 99: RuntimeError: stack expects"),
    (odd(OSError("no such\nfile")), "x: sample 70: OSError: no such file"),
    (odd(3), r"x: sample 70: TypeError: int, expected a pair \(input, target\)"),
    (odd((1, 2, 3)), r"x: sample 70: TypeError: tuple, expected a pair"),
    (odd((NAN, 0)), "x: inputs hold NaN or infinity, sample 70"),
    (odd((object(), 0)), "x: samples 64 to 99: "),
    (lambda row: (torch.zeros(2 + (row > 63)), 0), rf"{LATER}\(3,\).*, the first .*\(2,\).*: b"),
    (lambda row: (NAN[:1], 0 if row < 64 else 0.5), f"{LATER}float64.*, the first .*int64.*: b"),
    (lambda row: bad_threes(0), "x: none of 64 samples can be read: file 0: not a readable"),
]
# A worker hands errors on, whatever they are.
PLACES = [(*case, 0) for case in REFUSED] + [(*case, 1) for case in REFUSED[:3]]


@pytest.mark.parametrize(("function", "message", "workers"), PLACES)
def test_refused(function, message, workers, monkeypatch):
    monkeypatch.setattr(stream, "worker_count", lambda size, busy=1: workers)
    monkeypatch.setattr(stream, "FEW", 10)
    with refused(f"^{message}"):
        hold("x", Rows(100, function), BIG)


class Iterated(IterableDataset):
    def __iter__(self):
        return iter([plain(0)])


@pytest.mark.parametrize("dataset", [Iterated(), 3])
def test_only_map_style_data_sets_with_samples_are_taken(dataset):
    with refused("x: no samples: give it at least one"):
        hold("x", Rows(0, plain), BIG)
    name = type(dataset).__name__
    with refused(f"x: {name} is not map-style: give __len__"):
        hold("x", dataset, BIG)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_became_another_is_an_error(workers):
    dataset = Rows(10, plain)
    split, _ = hold("x", dataset, 1)
    dataset.function = lambda row: plain(row if row != 7 else 8)
    plan = [(0, [1, 2]), (0, [3, 9]), (0, [8, 7])]
    batches = read_splits(split, plan, workers)
    assert next(batches).inputs[:, 0].tolist() == [1, 2]
    next(batches)
    with refused("the data has changed: sample 7 is another one than at"):
        next(batches)
    dataset.function = bad_threes
    with refused("the data has changed: file 3: not a readable image"):
        list(read_splits(split, [(0, [4, 3])], workers))


def test_samples_that_draw_in_secret_or_are_words_are_refused():
    own = np.random.default_rng(0)
    with refused("x: samples draw from a generator of their own"):
        hold("x", Rows(10, lambda row: (torch.tensor(own.random()), 0)), BIG)
    for sample in (("cat", 0), (torch.zeros(2), "cat"), ({"path": "cat"}, 0)):
        with refused("x: sample 0: holds a str 'cat', expected numbers"):
            hold("x", Rows(3, lambda row, sample=sample: sample), BIG)


def test_a_file_that_the_data_set_opens_is_not_shared_by_the_workers(tmp_path, monkeypatch):
    """Seek and read in two processes at once would mix their places up."""
    monkeypatch.setattr(stream, "worker_count", lambda size, busy=1: 2)
    path = tmp_path / "numbers"
    np.arange(4000, dtype=np.int64).tofile(path)

    class Lazy:
        file = None

        def __call__(self, row):
            self.file = self.file or path.open("rb", buffering=0)
            self.file.seek(8 * row)
            return torch.tensor(np.frombuffer(self.file.read(8), np.int64).copy()), 0

    opened = Lazy()
    split, _ = hold("x", Rows(4000, opened), BIG)
    assert opened.file is None  # in this process, from which the workers are made
    assert torch.equal(split.inputs[:, 0], torch.arange(4000))


def test_large_samples_are_read_a_few_at_a_time():
    sizes = (1, 1 << 20, 10 << 20, 1 << 30)
    assert [stream.read_size(size) for size in sizes] == [64, 64, 6, 1]
