"""When warmup and peak rate of the flat families are settled."""

import pytest

from lrtune.search.peak import Peak, Peaks


def peaks(*tried: tuple[float, float]) -> Peaks:
    found = Peaks()
    for index, (score, rate) in enumerate(tried):
        found.add(score, index, Peak(rate, 0.1))
    return found


WORSE = [(9.0, 1e-3)] * 5


@pytest.mark.parametrize(
    ("tried", "expected"),
    [
        ([], None),
        ([(1.0, 0.1), (2.0, 0.2), (3.0, 0.15), *WORSE[:4]], None),  # seven are too few
        ([(1.0, 0.1), (2.0, 0.2), (3.0, 0.15), *WORSE], 0.1),
        ([(3.0, 0.1), (1.0, 0.2), (2.0, 0.15), *WORSE], 0.2),
        ([(1.0, 0.1), (2.0, 0.21), (3.0, 0.15), *WORSE], None),  # the best are not of one mind
        ([(1.0, 0.1), (1.0, 0.2), (1.0, 0.15), *WORSE], 0.1),  # of equals, the first
    ],
)
def test_when_a_peak_is_settled(tried: list[tuple[float, float]], expected: float | None) -> None:
    settled = peaks(*tried).settled
    assert (settled.peak_lr if settled else None) == expected
