"""Mean ranks over tasks: Friedman, Nemenyi, and what is said of them."""

import numpy as np
import pytest
from scipy import stats

from lrtune.reports import compare, ranks
from tests.reports.verdicts import made, tabled


# Critical values of Demšar (2006), table 5, two-tailed, at 0.05; his example has 4 and 14.
@pytest.mark.parametrize(("families", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (10, 3.164)])
def test_critical_difference(families, q):
    expected = q * np.sqrt(families * (families + 1) / (6 * 14))
    assert ranks.critical_difference(families, 14) == pytest.approx(expected, rel=3e-4)
    assert round(ranks.critical_difference(4, 14), 2) == 1.25


def test_friedman_is_of_the_shared_families():
    scores = np.random.default_rng(1).uniform(0.01, 1, (7, 4)) + np.array([0, 0, 0.2, 0.6])
    names = ["cosine", "wsd", "linear", "constant"]
    verdicts = [
        made(f"task {n}", **dict(zip(names, row - row.min(), strict=True)), **{f"own{n}": 0.5})
        for n, row in enumerate(scores)
    ]
    found = compare.table([(str(n), v) for n, v in enumerate(verdicts)])
    ranking = ranks.ranking(found)
    assert ranking.p == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)
    means = dict(zip(names, stats.rankdata(scores, axis=1).mean(0), strict=True))
    assert ranking.means == pytest.approx(means)
    assert ranking.difference == pytest.approx(ranks.critical_difference(4, 7))
    wins = compare.wins(found).set_index("family")
    far = {name: means[name] - min(means.values()) > ranking.difference for name in names}
    assert any(far.values()) and not all(far.values())
    assert {name: name in ranking.behind for name in names} == far
    own = wins.loc["own3"]
    assert (own["tasks"], own["losses"]) == (1, 1)
    assert np.isnan(own["mean_rank"])
    assert "finalists: own0, own1, own2 and 4 more." in compare.sentences(found)[-1]


def test_all_equal_is_no_difference():
    ties = {"cosine": 0.0, "linear": 0.0, "wsd": 0.0}
    found = ranks.ranking(tabled(made("a", **ties), made("b", **ties)))
    assert found.p == 1 and set(found.means.values()) == {2} and found.behind == []


FEW = "there is one task only"


@pytest.mark.parametrize(
    ("verdicts", "why"),
    [
        ([made()], FEW),
        ([made(), made(seed=1)], FEW),
        (
            [made("a", cosine=0.0, linear=0.1), made("b", wsd=0.0, linear=0.1)],
            "the tasks share 1 family, linear",
        ),
        (
            [made("a", cosine=0.0, linear=0.1), made("b", wsd=0.0, step=0.1)],
            "the tasks share 0 families",
        ),
    ],
)
def test_too_little_for_mean_ranks(verdicts, why):
    table = tabled(*verdicts)
    assert compare.sentences(table)[1] == f"No mean ranks: {why}."
    wins = compare.wins(table)
    assert wins["mean_rank"].isna().all()


def said(*verdicts):
    return compare.sentences(tabled(*verdicts))


def test_sentences():
    a, b = {"cosine": 0.0, "linear": 0.1, "wsd": 0.2}, {"cosine": 0.0, "linear": 0.0, "wsd": 0.2}
    few = said(made("x", **a), made("y", **b))
    assert few == [
        "cosine won 1 of 2 tasks alone, more than any other family, and shared the top of 1 more; "
        "1 ended in a tie.",
        "By mean rank among the 3 families that all 2 tasks share, cosine comes first (1.25).",
        "2 tasks tell apart only mean ranks further apart than 2.3 (Nemenyi, 95 %), which those of "
        "3 families cannot be: too few tasks.",
    ]
    many = said(*(made(str(n), **a) for n in range(9)))
    assert many[0] == "cosine won 9 of 9 tasks alone, more than any other family."
    assert many[2] == (
        "9 tasks tell apart only mean ranks further apart than 1.1 (Nemenyi, 95 %): wsd is behind, "
        "the others not shown to be. Friedman's test of all at once: p = 0.00012."
    )
    swapped = {"cosine": 0.1, "linear": 0.0}
    both = said(made("x", cosine=0.0, linear=0.1), made("y", **swapped))
    assert both[0].startswith("cosine and linear each won 1 of 2 tasks alone")
    assert "cosine and linear come first (1.50)" in both[1]
    tied = said(made("x", **b), made("y", **b))
    assert tied[0] == (
        "cosine and linear each shared the top of 2 of 2 tasks, more than any other family; nobody "
        "won one alone."
    )


def test_two_families_are_told_apart_by_the_difference_alone():
    verdicts = [made(str(n), cosine=0.0, linear=0.1) for n in range(5)]
    found = ranks.ranking(tabled(*verdicts))
    assert found.p is None and found.behind == ["linear"]
    assert said(*verdicts)[2].endswith("linear is behind, the others not shown to be.")
