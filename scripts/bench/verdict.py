"""How often is the verdict wrong? Whole searches whose truth is known, simulated.

    python scripts/bench/verdict.py [--only ROW] [--out [JSON]]

Each family is tried so many times and judged on validation; its best trial there goes to the
finals, and ``contest`` says how many seeds are trained. A real search leaves the luck of a trial's
seed out, so its finalists are better than these. The unit is a score's standard deviation between
seeds; lower is better. Where several are best there are three times as many searches, for an error
in 5 % of 1,000 is uncertain by 0.7. Prints a table, in per cent of the searches:

    winner: one is declared, where the search's best trial would always name one
    right: the one that is truly best is declared, and where several are, none
    wrong: declared, and not among the truly best
    left out: at least one of the truly best families is neither winner nor tied
    seeds: trained, a family
    best trial right: the best trial on validation is of the one family that is truly best
"""

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lrtune.engine.blocks import BLOCKS
from lrtune.results.contest import FIRST, MOST, contest
from lrtune.results.outcome import Result

RESULTS = Path(__file__).parents[2] / "studies" / "results" / "bench"
TRIALS = 20
OF_TIES = 3  # times as many searches

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
    """What is true of the families.

    Attributes:
        true: score of each family's best configuration.
        noise: of mean 0 and standard deviation 1.
        correlation: of two families on the same seed.
        sd: of the noise, by family, or one for all.
        trials: of each family, or one number for all.
        split: standard deviation of what this test split gives or takes from a family.
        counted: whether the contest sees the scores on the split's parts.
        short: by how much the average trial falls short of its family's best (exponential).
    """

    true: tuple[float, ...]
    noise: Noise = normal
    correlation: float = 0.0
    sd: tuple[float, ...] | float = 1.0
    trials: tuple[int, ...] | int = TRIALS
    split: float = 0.0
    counted: bool = True
    short: float = 0.0

    @property
    def best(self) -> set[int]:
        """The families that no other is better than."""
        return {family for family, true in enumerate(self.true) if true == min(self.true)}


def ahead(by: float) -> tuple[float, ...]:
    """The winner, the second, and four that are 1 further."""
    return (0, by, *[by + 1] * 4)


FAR = (0.0, 0.0, *[3.0] * 4)
NOISY = (3.0, *[1.0] * 5)
SCENARIOS = {
    "2 equal": Scenario((0,) * 2),
    "6 equal": Scenario((0,) * 6),
    "18 equal": Scenario((0,) * 18),
    "2 equal, correlation 0.5": Scenario((0,) * 2, correlation=0.5),
    "2 equal, 4 are 3 sd behind": Scenario(FAR),
    "2 equal, 4 behind, correlation 0.5": Scenario(FAR, correlation=0.5),
    "2 equal, heavy tails": Scenario((0,) * 2, heavy),
    "6 equal, heavy tails": Scenario((0,) * 6, heavy),
    "2 equal, skewed": Scenario((0,) * 2, skewed),
    "6 equal, skewed": Scenario((0,) * 6, skewed),
    "2 equal, one 3 times as noisy": Scenario((0,) * 2, sd=NOISY[:2]),
    "6 equal, one 3 times as noisy": Scenario((0,) * 6, sd=NOISY),
    "2 equal, skewed, one 3 times as noisy": Scenario((0,) * 2, skewed, sd=NOISY[:2]),
    "6 equal, skewed, one 3 times as noisy": Scenario((0,) * 6, skewed, sd=NOISY),
    "2 equal, one has 10 times the trials": Scenario((0,) * 2, trials=(200, 20)),
    "6 equal, one has 10 times the trials": Scenario((0,) * 6, trials=(200, *[20] * 5)),
    **{
        f"{by} sd ahead, {name}": Scenario(ahead(by), noise, correlation)
        for by in (0.25, 0.5, 1, 2)
        for name, noise, correlation in (
            ("correlation 0", normal, 0.0),
            ("correlation 0.5", normal, 0.5),
            ("heavy tails", heavy, 0.0),
            ("heavy tails, correlation 0.5", heavy, 0.5),
        )
    },
    "1 sd ahead of all 5": Scenario((0, *[1] * 5)),
    "2 equal, but for the split (0.5 sd)": Scenario((0,) * 2, split=0.5),
    "6 equal, but for the split (0.5 sd)": Scenario((0,) * 6, split=0.5),
    "2 equal, the split not counted": Scenario((0,) * 2, split=0.5, counted=False),
    "2 sd ahead, the split moves by 0.5 sd": Scenario(ahead(2), split=0.5),
    "2 equal, trials fall short by 1 sd": Scenario((0,) * 2, short=1.0),
    "6 equal, trials fall short by 1 sd": Scenario((0,) * 6, short=1.0),
    "6 equal, trials fall short by 3 sd": Scenario((0,) * 6, short=3.0),
    "6 equal, short, 10 times the trials": Scenario((0,) * 6, trials=(200, *[20] * 5), short=1.0),
    "1 sd ahead, trials fall short by 1 sd": Scenario(ahead(1), short=1.0),
}


def search(scenario: Scenario, generator: np.random.Generator) -> tuple[Array, int]:
    """True scores of the finalists, (families,), and the family of the best trial."""
    families = len(scenario.true)
    trials = np.broadcast_to(scenario.trials, families)
    sds = np.broadcast_to(scenario.sd, families)
    finalists, validated = [], []
    for true, sd, count in zip(scenario.true, sds, trials, strict=True):
        scores = true + scenario.short * generator.standard_exponential(count)
        seen = scores + sd * scenario.noise(generator, (count,))
        finalists.append(scores[seen.argmin()])
        validated.append(seen.min())
    return np.array(finalists), int(np.argmin(validated))


def finals(
    scenario: Scenario, finalists: Array, generator: np.random.Generator
) -> tuple[Result, dict[str, int]]:
    """The contest when it has ended, and the seeds that each finalist was trained on."""
    common = scenario.noise(generator, (1, MOST))
    own = scenario.noise(generator, (finalists.size, MOST))
    noise = np.sqrt(scenario.correlation) * common + np.sqrt(1 - scenario.correlation) * own
    sds = np.broadcast_to(scenario.sd, finalists.shape)
    scores = finalists[:, None] + sds[:, None] * noise
    parts = on_parts(scenario, scores, generator) if scenario.split else scores[..., None]
    trained = {str(number): FIRST for number in range(finalists.size)}
    while True:
        seen = {name: parts[int(name), :seeds] for name, seeds in trained.items()}
        result = contest(
            {name: scores.mean(1) for name, scores in seen.items()},
            minimize=True,
            blocks=seen if scenario.counted else None,
            draws=1,
        )
        if not result.wanted:
            return result, trained
        trained |= result.wanted


def on_parts(scenario: Scenario, scores: Array, generator: np.random.Generator) -> Array:
    """(families, seeds, BLOCKS) scores on the parts of a split: what is a part's own, and more."""
    shape = (*scores.shape, BLOCKS)
    own = generator.standard_normal((shape[0], 1, BLOCKS)) * scenario.split * np.sqrt(BLOCKS)
    return scores[..., None] + own + generator.standard_normal(shape)


def measure(scenario: Scenario, searches: int, generator: np.random.Generator) -> dict[str, float]:
    """Shares of the searches, as the module says, and mean seeds."""
    best = scenario.best
    found = []
    for _ in range(searches * OF_TIES if len(best) > 1 else searches):
        finalists, named = search(scenario, generator)
        result, trained = finals(scenario, finalists, generator)
        tied = {int(name) for name in result.tied}
        winner = len(tied) == 1
        found.append(
            {
                "winner": winner,
                "right": tied == best if len(best) == 1 else not winner,
                "wrong": winner and not tied <= best,
                "left out": not best <= tied,
                "seeds": sum(trained.values()) / len(trained),
                "best trial right": best == {named},
            }
        )
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--searches", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=SCENARIOS, metavar="ROW", help="of the table")
    parser.add_argument("--out", type=Path, nargs="?", const=RESULTS / "verdicts.json")
    args = parser.parse_args()
    if args.only and args.out:
        parser.error("--out is for the whole table")
    generators = [np.random.default_rng((args.seed, number)) for number in range(len(SCENARIOS))]
    chosen = [
        (name, scenario, args.searches, generator)
        for (name, scenario), generator in zip(SCENARIOS.items(), generators, strict=True)
        if args.only in (None, name)
    ]
    rows = {}
    with ProcessPoolExecutor() as workers:
        _, *given = zip(*chosen, strict=True)
        for (name, *_), row in zip(chosen, workers.map(measure, *given), strict=True):
            rows[name] = row
            if len(rows) == 1:
                print("| families |", " | ".join(row), "|\n|---|" + "---:|" * len(row))
            cells = [f"{v:.1f}" if k == "seeds" else f"{100 * v:.1f} %" for k, v in row.items()]
            print(f"| {name} |", " | ".join(cells), "|", flush=True)
    if args.out:
        kept = {
            "searches": args.searches,
            "of ties": args.searches * OF_TIES,
            "seed": args.seed,
            "scenarios": rows,
        }
        args.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
