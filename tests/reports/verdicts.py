"""Made-up verdicts."""

from lrtune.reports import compare
from lrtune.schedule import Schedule
from lrtune.verdict.verdict import Verdict
from tests.documents import TASK


def made(name="digits", metric="accuracy", seed=0, horizon=862, lost=(), **scores):
    """A verdict; of each family how much worse than the best: 0 are at the top."""
    direction = "minimize" if metric == "cross_entropy" else "maximize"
    sign = 1 if direction == "minimize" else -1
    scores = scores or {"cosine": 0.0, "linear": 0.02, "constant": 0.05}
    top = [family for family, gap in scores.items() if gap == 0 and family not in lost]

    def place(family):
        if family in lost:
            return "lost"
        return "behind" if scores[family] else "winner" if len(top) == 1 else "tied"

    def row(family):
        gap = None if family in lost else scores[family]
        mean = 0.9 + sign * scores[family]
        found = {"family": family, "place": place(family), "seeds": 20, "lost": int(family in lost)}
        found |= {"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "sd": 0.02, "gap": gap}
        ends = (None, None) if gap is None else (gap - 0.001, gap + 0.001)
        found |= {"gap_low": ends[0], "gap_high": ends[1], "p": None, "validation": mean}
        found |= {"resolved": {}, "metrics": {}, "reasons": []}
        return found | {"schedule": Schedule("cosine", peak_lr=0.1)}

    return Verdict.model_validate(
        {
            "study": f"{name}-mlp-sgd-{horizon}",
            "task": TASK | {"name": name, "fingerprint": f"of seed {seed}"},
            "objective": {"name": metric, "direction": direction, "unit": ""},
            "judge": "last",
            "optimizer": {"name": "sgd"},
            "versions": {},
            "seed": seed,
            "horizon": horizon,
            "trials": 30,
            "split": "test",
            "plan": {"trainings": 60, "margin": None, "width": 1},
            "answer": {
                "place": {0: "none", 1: "winner"}.get(len(top), "tie"),
                "families": top,
                "recommended": top[0] if top else None,
                "gains": [],
                "why": {0: "lost", 1: "separated"}.get(len(top), "budget"),
                "seeds": 20,
                "margin": 0.001,
            },
            "families": [row(family) for family in sorted(scores, key=scores.get)],
            "absent": [],
            "minimum_effect": None,
            "lr_sensitivity": [],
            "trained": 60 * horizon,
        }
    )


def tabled(*verdicts):
    return compare.table([(f"runs/{number}", found) for number, found in enumerate(verdicts)])


def put(folder, verdict=None, name="verdict.json"):
    folder.mkdir(parents=True, exist_ok=True)
    if verdict is not None:
        verdict.write(folder / name)
    return folder
