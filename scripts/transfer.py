"""Learn ``lrtune/model/transfer.safetensors`` from the recorded tasks.

    python scripts/transfer.py [--curves DIR]

Learns the mean function, over what lengths curves are alike, what settings tasks usually have, and
how partial curves end. Prints how well each is told on data that was left out.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent / "bench"))
from recorded import CURVES, Recorded, read

from lrtune.model.features import NAMES, PEAK
from lrtune.model.forecast import Yardstick
from lrtune.model.surrogate import warp
from lrtune.model.transfer import Transfer

HIDDEN = 24
STEPS, RATE, DECAY = 500, 0.01, 3e-3  # of the network's training
ROUNDS = 3  # of fitting the network, and finding each task's good peak under it
GRID = np.linspace(-2.5, 2.5, 41)  # nats around a first guess
PEAK_DOUBT = 1.5  # nats: how far a good peak lies from the first guess
BINS = np.arange(2, 30, 2)  # validations, of 30, at which forecasts are learnt
SOUND = 0.7  # share of the trainings, the better ones, that forecasts are learnt from
WORST = 3.0  # of z, so that hopeless schedules are no matter
PATH = Path(__file__).parents[1] / "lrtune" / "model" / "transfer.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", type=Path, default=CURVES)
    parser.add_argument("--out", type=Path, default=PATH)
    args = parser.parse_args()
    tasks = read(args.curves)
    for group in sorted({task.group for task in tasks}):
        report([t for t in tasks if t.group != group], [t for t in tasks if t.group == group])
    learn(tasks).save(args.out)
    print(f"{args.out}: learnt from {len(tasks)} tasks")


def report(known: Sequence[Recorded], left_out: Sequence[Recorded]) -> None:
    net = network(known)
    for task in left_out:
        z, shift = target(task), good_peak(net, task, first_guess(task))
        told = predict(net, task.x, shift)
        print(f"{task.name}: rank correlation {spearmanr(told, z)[0]:.2f} at its best peak")


def target(task: Recorded) -> np.ndarray:
    """How good each schedule is, on the scale that all tasks share."""
    best, scale = task.scale
    z = warp((task.final - best) / scale)
    worst = max(2.0, float(np.nanmax(z)))
    return np.minimum(np.where(np.isfinite(z), z, worst), WORST)


def first_guess(task: Recorded) -> float:
    """The middle of the log peaks of its best tenth."""
    order = np.argsort(target(task))
    return float(np.median(task.x[order[: max(5, len(order) // 10)], PEAK]))


class Net(nn.Module):
    """The mean function."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.register_buffer("center", x.mean(0))
        self.register_buffer("width", x.std(0).clamp_min(0.05))
        count = x.shape[1]
        self.layers = nn.Sequential(
            nn.Linear(count, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh()
        )
        self.last = nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.layers((x - self.center) / self.width))[:, 0]
        return found


def moved(x: np.ndarray, shift: float) -> np.ndarray:
    found = x.copy()
    found[:, PEAK] -= shift
    return found


def predict(net: Net, x: np.ndarray, shift: float) -> np.ndarray:
    with torch.no_grad():
        return net(torch.from_numpy(moved(x, shift)).float()).double().numpy()


def good_peak(net: Net, task: Recorded, guess: float) -> float:
    """The log peak under which the network says best what was seen."""
    z = target(task)
    errors = [
        ((predict(net, task.x, guess + step) - z) ** 2 / (0.3 + z)).sum() / 0.3
        + (step / PEAK_DOUBT) ** 2
        for step in GRID
    ]
    return guess + float(GRID[int(np.argmin(errors))])


def network(tasks: Sequence[Recorded]) -> Net:
    """The mean function of these tasks, each beside its own good peak."""
    peaks = {task.name: first_guess(task) for task in tasks}
    net = fitted(tasks, peaks, STEPS)
    for _ in range(ROUNDS - 1):
        peaks = {task.name: good_peak(net, task, first_guess(task)) for task in tasks}
        net = fitted(tasks, peaks, STEPS)
    return net


def fitted(tasks: Sequence[Recorded], peaks: dict[str, float], steps: int) -> Net:
    torch.manual_seed(0)
    x = torch.from_numpy(np.vstack([moved(t.x, peaks[t.name]) for t in tasks])).float()
    z = torch.from_numpy(np.concatenate([target(t) for t in tasks])).float()
    # Which of the good ones is best matters more than how bad the bad ones are.
    weight = 1 / (0.3 + z.clamp_min(0))
    net = Net(x)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (weight * (net(x) - z) ** 2).mean() / weight.mean()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net


def learn(tasks: Sequence[Recorded]) -> Transfer:
    """All of a Transfer."""
    groups = sorted({task.group for task in tasks})
    told: dict[str, np.ndarray] = {}
    for group in groups:  # what the mean says of tasks that it has not seen
        net = network([task for task in tasks if task.group != group])
        for task in tasks:
            if task.group == group:
                told[task.name] = predict(net, task.x, good_peak(net, task, first_guess(task)))
    lengths, settings = alike(tasks, told)
    net = network(tasks)
    arrays = [p.detach().double().numpy() for p in net.parameters()]
    progress, gain, gain_spread, error = forecasts(tasks)
    return Transfer(
        center=net.center.double().numpy(),
        width=net.width.double().numpy(),
        weights_1=arrays[0].T,
        bias_1=arrays[1],
        weights_2=arrays[2].T,
        bias_2=arrays[3],
        weights_3=arrays[4].T,
        bias_3=arrays[5],
        lengths=lengths,
        usual=settings.mean(0),
        spread=settings.std(0) + 0.1,
        progress=progress,
        gain=gain,
        gain_spread=gain_spread,
        error=error,
    )


def alike(tasks: Sequence[Recorded], told: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The lengths that explain best what the mean leaves over, and each task's settings.

    Returns:
        Lengths (features,), and (tasks, 4) as Settings has them.
    """
    log_lengths = torch.full((len(NAMES),), 0.7, dtype=torch.float64, requires_grad=True)
    own = torch.tensor([[-0.7, -1.2]] * len(tasks), dtype=torch.float64, requires_grad=True)
    trusts = np.array([trust_in(told[t.name], target(t)) for t in tasks])
    data = []
    for task, trust in zip(tasks, trusts, strict=True):
        rest = target(task) - trust * told[task.name]
        data.append((torch.from_numpy(task.x), torch.from_numpy(rest - rest.mean())))
    optimizer = torch.optim.Adam([log_lengths, own], lr=0.08)
    for _ in range(60):
        optimizer.zero_grad()
        loss = 0.5 * ((log_lengths - 0.7) ** 2).sum()
        for (x, rest), (log_own, log_noise) in zip(data, own, strict=True):
            scaled = x / log_lengths.exp()
            r = (5 * ((scaled[:, None] - scaled[None]) ** 2).sum(-1) + 1e-10).sqrt()
            k = (2 * log_own).exp() * (1 + r + r**2 / 3) * (-r).exp()
            k = k + ((2 * log_noise).exp() + 1e-5) * torch.eye(len(rest), dtype=torch.float64)
            root = torch.linalg.cholesky(k)
            solved = torch.linalg.solve_triangular(root, rest[:, None], upper=False)
            loss = loss + 0.5 * (solved**2).sum() + root.diagonal().log().sum()
        loss.backward()
        optimizer.step()
    scales = np.log([t.scale[1] for t in tasks])
    settings = np.column_stack([scales, trusts, own.detach().numpy()])
    return log_lengths.detach().exp().numpy(), settings


def trust_in(told: np.ndarray, z: np.ndarray) -> float:
    """How far what is told holds: the slope of the line from there to what was seen."""
    weight = 1 / (0.3 + np.maximum(z, 0))
    middle, mean = np.average(told, weights=weight), np.average(z, weights=weight)
    apart = told - middle
    return float((weight * apart * (z - mean)).sum() / (weight * apart**2).sum())


def forecasts(tasks: Sequence[Recorded]) -> tuple[np.ndarray, ...]:
    """How partial curves end, at a few shares of the run; by current weights, and by averaged."""
    kinds = [
        [
            gains_at([(t, t.designs(averaged), t.shown(averaged)) for t in tasks], bin_)
            for bin_ in BINS
        ]
        for averaged in (False, True)
    ]
    gain, spread, error = (np.array([[at[i] for at in kind] for kind in kinds]) for i in range(3))
    return BINS / 30, gain, spread, error


def gains_at(
    tasks: Sequence[tuple[Recorded, np.ndarray, np.ndarray]], validation: int
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """After so many validations: coefficients, their spread over tasks, and the error."""
    fits, variances = [], []
    for task, designs, shown in tasks:
        some = task.final <= np.nanquantile(task.final, SOUND)
        known, signals, finals = (
            designs[some, validation - 1],
            shown[some, validation - 1],
            task.final[some],
        )
        yardstick = Yardstick.of(known, signals, finals)
        x, y = yardstick.measure(known, signals), (finals - signals) / yardstick.unit
        y = np.clip(y, *np.quantile(y, [0.02, 0.98]))
        ridge = np.diag([1e-3, *[1.0] * (x.shape[1] - 1)])
        fit = np.linalg.solve(x.T @ x + ridge, x.T @ y)
        fits.append(fit)
        variances.append(max(1e-6, float(((y - x @ fit) ** 2).sum() / (len(y) - x.shape[1]))))
    coefficients, variance = np.array(fits), np.array(variances)
    mean = np.median(coefficients, 0)
    apart = np.clip((coefficients - mean) / np.sqrt(variance)[:, None], -8, 8)
    spread = apart.T @ apart / len(tasks) + 0.05 * np.eye(len(mean))
    log = np.log(variance)
    # An inverse gamma as wide, on a log scale, as the tasks' variances are.
    shape = max(0.75, 1 / max(0.1, float(log.var())))
    return mean, spread, [shape, shape * float(np.exp(log.mean()))]


if __name__ == "__main__":
    main()
