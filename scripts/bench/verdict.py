"""How often is the verdict wrong? Confirmations whose truth is known, simulated.

    python scripts/bench/verdict.py [--only ROW] [--out [JSON]]
    python scripts/bench/verdict.py --splits

The search believes of each family its true score and an error; the confirmation has the trainings
that the default budget keeps for it. The unit is a score's standard deviation between seeds; lower
is better. Prints a table, in per cent of the confirmations:

    better: the recommended schedule is called better than the user's
    wrong: so, and in truth it is not
    winner: one schedule is called better than all others
    false winner: so, and in truth another is as good or better
    bad: the recommended schedule is worse than the best by more than 0.5
    trainings: of the confirmation, mean
"""

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lrtune.engine.evaluate import BLOCKS
from lrtune.search.budget import CONFIRMED, TRAININGS
from lrtune.verdict.sequential import ALPHA, Role, Sample, sequential_test
from lrtune.verdict.summary import room_for
from lrtune.verdict.tie_break import NEAR, simpler

RESULTS = Path(__file__).parents[2] / "studies" / "results" / "bench"
BAD = 0.5  # standard deviations
KNOBS, ODD = {"constant": (0, 0), "cosine": (0, 2)}, (1, 3)  # complexity; that of others

Array = NDArray[np.float64]
Noise = Callable[[np.random.Generator, tuple[int, ...]], Array]


def normal(generator: np.random.Generator, size: tuple[int, ...]) -> Array:
    return generator.standard_normal(size)


def heavy(generator: np.random.Generator, size: tuple[int, ...]) -> Array:
    """Student's t, 3 degrees of freedom."""
    return generator.standard_t(3, size) / np.sqrt(3)


def skewed(generator: np.random.Generator, size: tuple[int, ...]) -> Array:
    """Log-normal."""
    return (generator.lognormal(size=size) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)


@dataclass(frozen=True)
class Scenario:
    """What is true.

    Attributes:
        yours: score of the user's own schedule; none where None.
        constant: of the tuned constant.
        cosine: of the tuned cosine.
        others: of the best of other families.
        noise: of mean 0 and standard deviation 1.
        correlation: of two schedules on the same seed.
        sd: of the noise, of the user's schedule; that of all others is 1.
        belief: standard deviation of the search's error about a family.
        split: standard deviation of what this test split gives or takes from a schedule.
        trainings: that the confirmation has.
    """

    yours: float | None = None
    constant: float = 3.0
    cosine: float = 0.0
    others: tuple[float, ...] = (0.0,)
    noise: Noise = normal
    correlation: float = 0.5
    sd: float = 1.0
    belief: float = 0.5
    split: float = 0.0
    trainings: int = round(CONFIRMED * TRAININGS)


def ahead(by: float, **others: object) -> Scenario:
    """The best is so far ahead of the user's schedule."""
    return Scenario(yours=by, others=(0.0, 0.5), **others)  # type: ignore[arg-type]


def tie(**others: object) -> Scenario:
    """The user's schedule is as good as the best."""
    return Scenario(yours=0.0, **others)  # type: ignore[arg-type]


def equal(count: int, **others: object) -> Scenario:
    """So many families are equal, tuned constant and cosine among them."""
    return Scenario(constant=0.0, others=(0.0,) * (count - 2), **others)  # type: ignore[arg-type]


SCENARIOS = {
    **{
        f"yours {by:g} sd behind, {name}": ahead(by, noise=noise, correlation=correlation)
        for by in (0.5, 1, 2)
        for name, noise, correlation in (
            ("correlation 0.5", normal, 0.5),
            ("correlation 0", normal, 0.0),
            ("heavy tails, correlation 0.5", heavy, 0.5),
        )
    },
    "yours 1 sd behind, 16 trainings": ahead(1, trainings=16),
    "yours 1 sd behind, 40 trainings": ahead(1, trainings=40),
    "yours as good, correlation 0.5": tie(),
    "yours as good, correlation 0": tie(correlation=0.0),
    "yours as good, heavy tails": tie(noise=heavy),
    "yours as good, skewed": tie(noise=skewed),
    "yours as good and 2 times as noisy": tie(sd=2.0),
    "yours as good, but for the split (0.5 sd)": tie(split=0.5),
    "yours is the best by 1 sd": Scenario(yours=0.0, cosine=1.0, others=(1.0, 1.5)),
    "2 equal": equal(2),
    "4 equal": equal(4),
    "4 equal, correlation 0": equal(4, correlation=0.0),
    "10 equal": equal(10),
    "4 equal, heavy tails": equal(4, noise=heavy),
    "4 equal, skewed": equal(4, noise=skewed),
    "4 equal, but for the split (0.5 sd)": equal(4, split=0.5),
    "the best is 1 sd ahead": Scenario(cosine=1.0, others=(0.0, 1.0, 1.0)),
    "the best is 1 sd ahead, blind search": Scenario(cosine=1.0, others=(0.0, 1.0, 1.0), belief=1),
}


def invited(scenario: Scenario, generator: np.random.Generator) -> tuple[dict[str, float], dict]:
    """True scores of those that take part, and their roles; the search's pick first."""
    true = {"constant": scenario.constant, "cosine": scenario.cosine}
    true |= {f"other {number}": score for number, score in enumerate(scenario.others)}
    believed = {
        name: score + scenario.belief * generator.standard_normal() for name, score in true.items()
    }
    best, *_ = leaders = sorted(true, key=believed.__getitem__)
    behind = {name: score - believed[best] for name, score in believed.items()}
    knobs = {name: KNOBS.get(name, ODD) for name in true}
    pick = next(iter(simpler(best, behind, knobs, NEAR)), best)
    leaders.remove(pick)
    yours = {} if scenario.yours is None else {"yours": scenario.yours}
    baselines = [name for name in ("constant", "cosine") if name != pick]
    names = [pick, *yours, *baselines, *(name for name in leaders if name not in baselines)]
    names = names[: room_for(scenario.trainings, len(yours))]
    roles: dict[str, Role] = {
        name: "yours" if name in yours else "baseline" if name in baselines else "leader"
        for name in names
    }
    return {name: (true | yours)[name] for name in names}, roles


def confirm(scenario: Scenario, generator: np.random.Generator) -> dict[str, float]:
    """One confirmation, to its end."""
    true, roles = invited(scenario, generator)
    most = scenario.trainings
    common = scenario.noise(generator, (1, most))
    own = scenario.noise(generator, (len(true), most))
    noise = np.sqrt(scenario.correlation) * common + np.sqrt(1 - scenario.correlation) * own
    sds = np.array([scenario.sd if name == "yours" else 1.0 for name in true])
    scores = np.array(list(true.values()))[:, None] + sds[:, None] * noise
    parts = on_parts(scenario, scores, generator) if scenario.split else scores[..., None]
    seen = dict.fromkeys(true, 0)
    while True:
        now = {name: parts[row, : seen[name]] for row, name in enumerate(true)}
        result = sequential_test(
            {name: part.mean(1) for name, part in now.items()},
            minimize=True,
            trainings=most,
            roles=roles,
            blocks=now,
            knobs={name: KNOBS.get(name, ODD) for name in true},
        )
        if not result.wanted:
            break
        seen |= result.wanted
    use, tied = result.recommended, result.tied
    assert use is not None
    best = min(score for score in true.values())
    yours = result.standings.get("yours")
    better = yours is not None and yours.gap > 0 and yours.p < ALPHA
    winner = len(tied) == 1
    rivals = [score for name, score in true.items() if name != use]
    return {
        "better": better,
        "wrong": better and true[use] >= true["yours"],
        "winner": winner,
        "false winner": winner and true[use] >= min(rivals),
        "bad": true[use] > best + BAD,
        "trainings": sum(seen.values()),
    }


def on_parts(scenario: Scenario, scores: Array, generator: np.random.Generator) -> Array:
    """(schedules, seeds, BLOCKS) scores on the parts of a split: what is a part's own, and more."""
    shape = (*scores.shape, BLOCKS)
    own = generator.standard_normal((shape[0], 1, BLOCKS)) * scenario.split * np.sqrt(BLOCKS)
    return scores[..., None] + own + generator.standard_normal(shape)


TEST, RATIO = 0.2, 0.2 / 0.64  # share of the samples that are tested; that over the trained


def of_splits(favour: float, lead: float, seeds: int, random: np.random.Generator) -> list[bool]:
    """Whether a lead is called shown: on one split, on fresh ones, on these corrected.

    Paired t-tests at 5 %, all seeds at once. What a split gives or takes from a difference has the
    standard deviation ``favour``; of two fresh splits it correlates by their tests' overlap. What a
    split gives to both schedules is not in their difference.
    """
    noise = lead + random.standard_normal(seeds)
    parts = noise[:, None] + random.standard_normal((seeds, BLOCKS))
    parts += favour * np.sqrt(BLOCKS) * random.standard_normal(BLOCKS)
    one = Sample.of(parts.mean(1).tolist(), parts.tolist(), 1.0)
    common, own = random.standard_normal(), random.standard_normal(seeds)
    fresh = noise + favour * (np.sqrt(TEST) * common + np.sqrt(1 - TEST) * own)
    error, t = fresh.std(ddof=1), stats.t.ppf(0.975, seeds - 1)
    plain, corrected = t * error * seeds**-0.5, t * error * np.sqrt(1 / seeds + RATIO)
    return [one.interval()[0] > 0, fresh.mean() > plain, fresh.mean() > corrected]


def compare_splits(count: int, seed: int) -> None:
    """Print how often one split and fresh ones find a lead of 1, and one that is none."""
    ways = ("one split", "fresh splits", "fresh, corrected (Nadeau and Bengio)")
    print(
        "| seeds | the split gives or takes |", " | ".join(f"{w}: wrong, found" for w in ways), "|"
    )
    print("|---:|---:|" + "---:|" * len(ways))
    for seeds, favour in product((5, 10), (0.0, 0.25, 0.5, 1.0)):
        random = np.random.default_rng(seed)
        wrong, found = (
            np.mean([of_splits(favour, lead, seeds, random) for _ in range(count)], 0)
            for lead in (0.0, 1.0)
        )
        cells = [f"{100 * w:.1f} %, {100 * f:.0f} %" for w, f in zip(wrong, found, strict=True)]
        print(f"| {seeds} | {favour:g} |", " | ".join(cells), "|", flush=True)


def measure(scenario: Scenario, count: int, generator: np.random.Generator) -> dict[str, float]:
    """Means over so many confirmations, as the module says."""
    found = [confirm(scenario, generator) for _ in range(count)]
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--confirmations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=SCENARIOS, metavar="ROW", help="of the table")
    parser.add_argument("--out", type=Path, nargs="?", const=RESULTS / "verdicts.json")
    parser.add_argument("--splits", action="store_true", help="a fresh split per seed, or one")
    args = parser.parse_args()
    if args.splits:
        return compare_splits(args.confirmations, args.seed)
    if args.only and args.out:
        parser.error("--out is for the whole table")
    generators = [np.random.default_rng((args.seed, number)) for number in range(len(SCENARIOS))]
    chosen = [
        (name, scenario, args.confirmations, generator)
        for (name, scenario), generator in zip(SCENARIOS.items(), generators, strict=True)
        if args.only in (None, name)
    ]
    rows = {}
    with ProcessPoolExecutor() as workers:
        _, *given = zip(*chosen, strict=True)
        for (name, *_), row in zip(chosen, workers.map(measure, *given), strict=True):
            rows[name] = row
            if len(rows) == 1:
                print("| truth |", " | ".join(row), "|\n|---|" + "---:|" * len(row))
            cells = [f"{v:.1f}" if k == "trainings" else f"{100 * v:.1f} %" for k, v in row.items()]
            print(f"| {name} |", " | ".join(cells), "|", flush=True)
    if args.out:
        kept = {"confirmations": args.confirmations, "seed": args.seed, "scenarios": rows}
        args.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
