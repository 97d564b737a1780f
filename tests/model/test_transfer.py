"""What other tasks teach, as a file and as a function."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hand_made import NOTHING, schedules, table

from lrtune.model.features import NAMES
from lrtune.model.transfer import Transfer, nothing, published, read

X = table(schedules(np.geomspace(1e-3, 1, 5)))
PEAKS = np.log([0.01, 0.1, 1.0])


@pytest.mark.parametrize("made", [published, nothing])
def test_it_is_the_same_after_a_file(made, tmp_path: Path) -> None:
    transfer = made()
    transfer.save(tmp_path / "transfer.safetensors")
    again = read((tmp_path / "transfer.safetensors").read_bytes())
    for field in fields(Transfer):
        expected = getattr(transfer, field.name)
        assert getattr(again, field.name) == pytest.approx(expected, rel=1e-6)
    assert again.fingerprint == transfer.fingerprint
    assert again.means(X, PEAKS) == pytest.approx(transfer.means(X, PEAKS), abs=1e-5)


def test_its_fingerprint_is_of_all_that_it_says() -> None:
    seen = {published().fingerprint, nothing().fingerprint}
    for field in fields(Transfer):
        changed = getattr(published(), field.name) + 0.5
        seen.add(replace(published(), **{field.name: changed}).fingerprint)
    assert len(seen) == 2 + len(fields(Transfer))


def test_what_comes_with_lrtune_is_whole() -> None:
    known, features = published(), len(NAMES)
    assert known.center.shape == known.width.shape == known.lengths.shape == (features,)
    assert known.usual.shape == known.spread.shape == (4,)
    kinds, places, width = known.gain.shape
    assert (kinds, places) == (2, len(known.progress))
    assert known.gain_spread.shape == (2, places, width, width)
    assert known.error.shape == (2, places, 2)
    for field in fields(Transfer):
        assert np.isfinite(getattr(known, field.name)).all()
    for array in (known.width, known.lengths, known.spread, known.error):
        assert (array > 0).all()
    assert (np.diff(known.progress) > 0).all()
    assert np.linalg.eigvalsh(known.gain_spread).min() > 0


def test_what_the_network_sees() -> None:
    known, moved = published(), X.copy()
    moved[:, 0] += 0.7  # only how far a peak is from a good one counts
    assert known.means(moved, PEAKS + 0.7) == pytest.approx(known.means(X, PEAKS))
    assert known.means(X, PEAKS).shape == (len(PEAKS), len(X))
    wide = np.hstack([X, np.linspace(0, 1, len(X))[:, None]])  # a parameter beside the schedule
    assert (known.means(wide, PEAKS) == known.means(X, PEAKS)).all()
    scaled = known.scaled(wide)
    assert scaled[:, :-1] == pytest.approx(X / known.lengths)
    assert scaled[-1, -1] - scaled[0, -1] > 1
    around = np.log(0.1) + np.array([-4.0, 0.0, 4.0])
    low, good, high = known.means(table(schedules([0.1], ("cosine",))), around)[:, 0]
    assert good < low and good < high  # a peak may be too high or too low
    assert len(np.unique(NOTHING.means(X, PEAKS))) == 1 and (NOTHING.gain == 0).all()
