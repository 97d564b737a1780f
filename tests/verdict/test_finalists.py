"""Who comes to the finals."""

import math

import pandas as pd
import pytest

from lrtune.verdict.settings import Objective
from lrtune.verdict.summary import MOST, Finalist, finalists, room_for
from tests.documents import ACCURACY, LOSS
from tests.verdict.test_verdict import searched


def believed(family: str, rows: list[tuple[str, float, float, float]]) -> pd.DataFrame:
    """Trials of a family by state, value, the final value expected, and the chance to be best."""
    table = searched({0.1 * (n + 1): value for n, (_, value, *_) in enumerate(rows)}, family)
    states, _, expected, chances = zip(*rows, strict=True)
    return table.assign(state=states, expected=expected, p_best=chances)


def invited(*tables: pd.DataFrame, objective: Objective = LOSS) -> list[Finalist]:
    table = pd.concat(tables, ignore_index=True)
    return finalists(table.assign(number=range(len(table))), objective)


def test_a_family_sends_the_schedule_of_which_most_is_expected_not_the_luckiest() -> None:
    lucky, solid = ("complete", 0.2, 0.4, 0.1), ("complete", 0.3, 0.3, 0.5)
    forecast = ("pruned", math.nan, 0.25, 0.3)
    (one, other) = invited(
        believed("linear", [lucky, solid, forecast]),
        believed("wsd", [("pruned", math.nan, 0.5, 0.0), ("plateaued", math.nan, 0.4, 0.1)]),
    )
    assert (one.family, one.searched, one.trial, one.role) == ("linear", 0.3, 1, "leader")
    assert one.params == {"peak_lr": 0.2} and one.schedule.peak_lr == 0.2
    assert (other.family, other.trial) == ("wsd", 4) and math.isnan(other.searched)
    upwards = invited(believed("linear", [lucky, solid]), objective=ACCURACY)
    assert [found.searched for found in upwards] == [0.2]


def test_families_come_by_their_chance() -> None:
    chances = {"constant": 0.001, "linear": 0.01, "wsd": 0.03, "rex": 0.5, "step": 0.019}
    tables = [
        believed(
            family, [("complete", 0.3, 0.3, chance / 2), ("pruned", math.nan, 0.5, chance / 2)]
        )
        for family, chance in chances.items()
    ]
    found = {one.family: one.role for one in invited(*tables)}
    assert found == {"rex": "leader", "wsd": "leader"}
    assert list(found) == ["rex", "wsd"]
    unlikely = invited(*tables[:2], *tables[4:])  # two at least
    assert {one.family for one in unlikely} == {"step", "linear"}


def test_no_more_than_a_few_lead() -> None:
    names = ("wsd", "rex", "step", "linear", "cosine", "spline", "tanh", "polynomial")
    chances = {name: 0.2 - 0.02 * place for place, name in enumerate(names)}
    tables = [believed(name, [("complete", 0.3, 0.3, p)]) for name, p in chances.items()]
    found = invited(*tables)
    assert {one.family for one in found} == set(names[:MOST])
    assert {one.role for one in found} == {"leader"}


@pytest.mark.parametrize(
    ("trainings", "yours", "room"), [(4, 0, 2), (4, 1, 3), (28, 0, 4), (28, 1, 4), (40, 2, 6)]
)
def test_how_many_schedules_so_many_trainings_compare(
    trainings: int, yours: int, room: int
) -> None:
    assert room_for(trainings, yours) == room


def test_who_diverged_sends_none_and_who_is_not_known_counts_by_its_value() -> None:
    lost = believed("wsd", [("diverged", math.nan, 2.0, 0.4), ("failed", math.nan, 2.0, 0.0)])
    assert invited(lost) == []
    unknown = math.nan
    rows = [("complete", 0.3, unknown, unknown), ("complete", 0.2, unknown, unknown)]
    found = invited(lost, believed("linear", rows), believed("rex", rows[:1]))
    assert [(one.family, one.searched) for one in found] == [("linear", 0.2), ("rex", 0.3)]
    assert finalists(searched({}).reindex(columns=[*searched({0.1: 0.1}), "p_best"]), LOSS) == []
