"""The surrogate: one Gaussian process over the curves of all schedules of a task.

How good a schedule is, on a scale on which the best schedules of a task are at 0 and its median one
at 1, is what other tasks teach (``Transfer.means``) plus a smooth function of the task's own
(a Matern 5/2 process) plus the noise between seeds. Five settings say how a task lies on that
scale, how far to trust what others teach, and how noisy it is. A sixth, where its good peak rate
lies against the range test's, is averaged over instead of chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

from lrtune.model.features import NAMES
from lrtune.model.forecast import ShorterTraining
from lrtune.model.transfer import Transfer
from lrtune.schedule.family import Array

MOST = 200  # observations that the process is conditioned on: the best ones and a spread of others
MOST_FITTED = 100  # observations that its settings are fitted to
FAR = 2.5  # doubts around the range test's peak
STEP = 0.35  # nats between the peaks that are averaged over
MOST_SHIFTS = 21
NEGLIGIBLE = 0.01  # weight of a peak, below which it is left out
JITTER = 1e-6
MOST_KEPT = 10_000  # schedules whose means are kept
DIGITS = 9  # of a mean
FITTED = 5  # settings
GROWTH = 1.25  # settings are fitted anew when there are so many times more observations


@dataclass(frozen=True)
class Observations:
    """What is known of schedules on one task, in the order in which it came to be known."""

    x: Array  # (n, features) see ``features``; parameters beside the schedule come after
    y: Array  # (n,) final values on a ``Scale``, lower is better
    variance: Array  # (n,) beside the noise between seeds: a forecast's; 0 of whole trainings

    def __len__(self) -> int:
        return len(self.y)

    def first(self, n: int) -> "Observations":
        """The first n of them."""
        return Observations(self.x[:n], self.y[:n], self.variance[:n])

    def with_others(self, others: Sequence[ShorterTraining]) -> "Observations":
        """These, and behind them what less training would have come to."""
        if not others:
            return self
        x, y, variance = zip(*others, strict=True)
        return Observations(
            np.vstack([self.x, x]), np.append(self.y, y), np.append(self.variance, variance)
        )

    def subset(self, most: int) -> "Observations":
        """At most so many: the best half of these, and an even spread over the rest by value."""
        if len(self) <= most:
            return self
        order = np.argsort(self.y, kind="stable")
        rest = order[most // 2 :]
        spread = rest[np.linspace(0, len(rest) - 1, most - most // 2).round().astype(int)]
        rows = np.sort(np.concatenate([order[: most // 2], spread]))
        return Observations(self.x[rows], self.y[rows], self.variance[rows])


@dataclass(frozen=True, slots=True)
class PeakGuess:
    """Where a good peak rate lies, before anything is trained."""

    log_peak: float  # natural logarithm of the rate
    doubt: float  # standard deviation of that, in nats

    @property
    def shifts(self) -> tuple[Array, Array]:
        """Log peaks (m,) that are averaged over, and the log of their weights."""
        count = int(np.clip(np.ceil(2 * FAR * self.doubt / STEP), 7, MOST_SHIFTS))
        places = np.linspace(-FAR, FAR, count)
        # Student's t of four degrees: where training on overfits, good peaks lie far below.
        weights = -2.5 * np.log1p(places**2 / 4)
        return self.log_peak + self.doubt * places, weights - np.log(np.exp(weights).sum())


class Prior:
    """What is believed of schedules before any is trained: other tasks' mean, by good peak."""

    def __init__(self, transfer: Transfer, guess: PeakGuess) -> None:
        self.transfer = transfer
        self.shifts, self.log_weights = guess.shifts  # (m,) log peaks, and how probable each is
        self._means: dict[bytes, Array] = {}  # (m,) by a schedule's features

    def means(self, x: Array) -> Array:
        """How good schedules are, float64 (m, n); those asked for before are not computed again."""
        own = np.ascontiguousarray(x[:, : len(NAMES)])
        keys = [row.tobytes() for row in own]
        new = {key: row for row, key in enumerate(keys) if key not in self._means}
        if len(self._means) + len(new) > MOST_KEPT:
            self._means.clear()
            new = {key: row for row, key in enumerate(keys)}
        if new:
            # Rounded, for the last digits depend on what is computed together.
            means = self.transfer.means(own[list(new.values())], self.shifts).T.round(DIGITS)
            self._means.update(zip(new, means, strict=True))
        return np.array([self._means[key] for key in keys]).reshape(len(x), len(self.shifts)).T


def warp(u: Array) -> Array:
    """As it is up to 1, the median schedule; of worse ones the logarithm: how bad is no matter."""
    return np.where(u > 1, 1 + np.log(np.maximum(u, 1)), u)


def unwarp(z: Array) -> Array:
    """The inverse of ``warp``."""
    return np.where(z > 1, np.exp(np.clip(z - 1, 0, 50)), z)


def matern(a: Array, b: Array) -> Array:
    """Matern 5/2 correlation (n, m) of points (n, d) and (m, d), in lengths."""
    r = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :]  # in place: most time went into memory
    r -= 2 * a @ b.T
    np.maximum(r, 0, out=r)
    r *= 5
    np.sqrt(r, out=r)
    correlation = 1 + r
    third = r**2
    third /= 3
    correlation += third
    np.negative(r, out=r)
    correlation *= np.exp(r, out=r)
    return np.asarray(correlation)


@dataclass(frozen=True, slots=True)
class Settings:
    """The five numbers of a task; see ``Transfer.usual``."""

    level: float  # where the best schedules' values lie, on the values' scale
    log_scale: float  # log of the distance from there to the median schedule
    trust: float  # 1 where what other tasks teach holds as it is, 0 where it says nothing
    log_own: float  # log of the standard deviation of what the task has of its own
    log_noise: float  # log of that between seeds; both in units of the scale

    def z(self, y: Array) -> Array:
        """Values in the units that all tasks share."""
        return warp((y - self.level) / np.exp(self.log_scale))

    def y(self, z: Array) -> Array:
        """And back."""
        return np.asarray(self.level + np.exp(self.log_scale) * unwarp(z))

    def slope(self, y: Array) -> Array:
        """dz/dy (n,)."""
        u = (y - self.level) / np.exp(self.log_scale)
        return np.asarray(1 / (np.exp(self.log_scale) * np.maximum(u, 1)))


class Surrogate:
    """From observations to a posterior; its settings are fitted now and then.

    What it says is a function of the observations and their order alone.
    """

    def __init__(self, transfer: Transfer, guess: PeakGuess) -> None:
        self._prior = Prior(transfer, guess)
        self._fitted: tuple[int, Settings] | None = None

    def posterior(self, known: Observations, then: Observations | None = None) -> "Posterior":
        """What is to be believed after these observations.

        ``then``: as they were when settings were last to be fitted, see ``fitted_at``: forecasts
        and the scale may have changed since. The first of ``known`` where None.
        """
        then = known.first(fitted_at(len(known))) if then is None else then
        if self._fitted is None or self._fitted[0] != len(then):
            self._fitted = len(then), self._fit(then.subset(MOST_FITTED))
        return Posterior(self._prior, self._fitted[1], known.subset(MOST))

    def _fit(self, known: Observations) -> Settings:
        """The most probable settings, the peak averaged over."""
        prior, transfer = self._prior, self._prior.transfer
        middle = np.append(BEST[0], transfer.usual)
        width = np.append(BEST[1], transfer.spread)
        low = float(known.y.min()) if len(known) else 0.0
        if len(known) < 2:
            return _settings(middle, low)
        means = prior.means(known.x)
        correlation = matern(*(transfer.scaled(known.x),) * 2)

        def objective(theta: Array) -> tuple[float, Array]:
            fit, slopes = _evidence(theta, low, known, means, correlation, prior.log_weights)
            off = (theta - middle) / width
            return float((off**2).sum() / 2 - fit), off / width - slopes

        bounds = list(zip(middle - FARTHEST * width, middle + FARTHEST * width, strict=True))
        start = middle.copy()
        start[1] = np.clip(np.log(np.median(known.y) - low + 1e-3), *bounds[1])
        best = minimize(
            objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 25}
        )
        return _settings(best.x if np.isfinite(best.fun) else start, low)


# How far below the best value seen the level lies, in units of the scale: mean and spread.
BEST = (0.3, 0.5)
FARTHEST = 3.0  # spreads from the mean, beyond which no setting is looked for


def _settings(theta: Array, low: float) -> Settings:
    """Settings whose level is told by the best value seen."""
    below, log_scale, trust, log_own, log_noise = theta.tolist()
    level = low - below * float(np.exp(log_scale))
    return Settings(level, log_scale, trust, log_own, log_noise)


def fitted_at(n: int) -> int:
    """The number of observations, at most n, at which settings are fitted."""
    count = 2
    if n < count:
        return n
    while (following := max(count + 1, int(count * GROWTH))) <= n:
        count = following
    return count


def _evidence(
    theta: Array,  # (5,) below, log_scale, trust, log_own, log_noise
    low: float,  # the best value seen
    known: Observations,
    means: Array,  # (shifts, n)
    correlation: Array,  # (n, n)
    weights: Array,  # (shifts,) log
) -> tuple[float, Array]:
    """Log marginal likelihood of the observations, and its gradient (5,)."""
    settings = _settings(theta, low)
    scale, own = np.exp(settings.log_scale), np.exp(2 * settings.log_own)
    u = (known.y - settings.level) / scale
    z, slope = settings.z(known.y), settings.slope(known.y)
    seeds, unsure = np.exp(2 * settings.log_noise), known.variance * slope**2
    k = own * correlation
    k.flat[:: len(k) + 1] += seeds + unsure + JITTER
    try:
        factor = cho_factor(k, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return -1e10, np.zeros(FITTED)
    rest = z[None, :] - settings.trust * means  # (shifts, n)
    solved = cho_solve(factor, rest.T, check_finite=False).T  # (shifts, n)
    fits = -0.5 * (rest * solved).sum(1) + weights
    top = fits.max()
    shares = np.exp(fits - top)
    total = shares.sum()
    logdet = np.log(np.diag(factor[0])).sum()
    evidence = float(top + np.log(total) - logdet + np.log(slope).sum())
    shares /= total
    inverse = cho_solve(factor, np.eye(len(k)), check_finite=False)
    by_k = 0.5 * ((solved.T * shares) @ solved - inverse)
    by_noise = np.diag(by_k)
    by_z, by_log_slope = -(shares @ solved), 1 + 2 * by_noise * unsure
    by_u = by_z * slope * scale - by_log_slope * np.where(u > 1, 1 / np.maximum(u, 1), 0.0)
    gradient = [
        by_u.sum(),
        -(by_u * (u - theta[0])).sum() - by_log_slope.sum(),
        shares @ (solved * means).sum(1),
        2 * own * (by_k * correlation).sum(),
        2 * seeds * by_noise.sum(),
    ]
    return evidence, np.array(gradient)


@dataclass
class Posterior:
    """What is believed of every schedule of a task, in the units that all tasks share."""

    prior: Prior  # what was believed before
    settings: Settings  # of this task
    known: Observations
    shifts: Array = field(init=False)  # (m,) log peaks that are still possible
    weights: Array = field(init=False)  # (m,) how probable each is

    def __post_init__(self) -> None:
        prior, known, settings = self.prior, self.known, self.settings
        self._kept = np.ones(len(prior.shifts), dtype=bool)
        if not len(known):
            self.shifts, self.weights = prior.shifts, np.exp(prior.log_weights)
            return
        z, slope = settings.z(known.y), settings.slope(known.y)
        self._scaled = prior.transfer.scaled(known.x)
        k = np.exp(2 * settings.log_own) * matern(self._scaled, self._scaled)
        noise = np.exp(2 * settings.log_noise) + known.variance * slope**2
        k.flat[:: len(k) + 1] += noise + JITTER
        self._factor = np.linalg.cholesky(k)
        rest = (z - settings.trust * prior.means(known.x)).T  # (n, m)
        solved = solve_triangular(self._factor, rest, lower=True, check_finite=False)
        log = prior.log_weights - 0.5 * (solved**2).sum(0)
        weights = np.exp(log - log.max())
        weights /= weights.sum()
        self._kept = weights >= min(NEGLIGIBLE, weights.max())
        self.shifts = prior.shifts[self._kept]
        self.weights = weights[self._kept] / weights[self._kept].sum()
        self._solved = solved[:, self._kept]  # (n, m)

    @cached_property
    def inflation(self) -> float:
        """By how much wider all is than under these very settings, which are only fitted."""
        return float(np.sqrt(1 + FITTED / max(len(self.known), FITTED)))

    @cached_property
    def noise(self) -> float:
        """Standard deviation between seeds."""
        return self.inflation * float(np.exp(self.settings.log_noise))

    @cached_property
    def best(self) -> float:
        """The lowest mean of what was trained whole; infinite where nothing was."""
        whole = self.known.x[self.known.variance == 0]
        return float(self.mean_and_sd(whole)[0].min()) if len(whole) else np.inf

    def _parts(self, x: Array) -> tuple[Array, Array | None]:
        """Means by peak (m, points), and the whitened correlation with what is known."""
        means = self.settings.trust * self.prior.means(x)[self._kept]
        if not len(self.known):
            return means, None
        cross = np.exp(2 * self.settings.log_own) * matern(
            self._scaled, self.prior.transfer.scaled(x)
        )
        white = solve_triangular(self._factor, cross, lower=True, check_finite=False)
        return means + (self._solved.T @ white), white

    def mean_and_sd(self, x: Array) -> tuple[Array, Array]:
        """Of the latent value at (points, features), the noise left out: (points,) each."""
        means, white = self._parts(x)
        mean = self.weights @ means
        variance = np.exp(2 * self.settings.log_own) + self.weights @ (means - mean) ** 2
        if white is not None:
            variance = variance - (white**2).sum(0)
        return mean, self.inflation * np.sqrt(np.maximum(variance, JITTER))

    def mean(self, x: Array) -> Array:
        """As ``mean_and_sd``, for less."""
        means = self.weights @ (self.settings.trust * self.prior.means(x)[self._kept])
        if not len(self.known):
            return np.asarray(means)
        own = np.exp(2 * self.settings.log_own)
        correlation = matern(self.prior.transfer.scaled(x), self._scaled)
        return np.asarray(means + own * (correlation @ self._pull))

    @cached_property
    def _pull(self) -> Array:
        """How each observation (n,) moves the mean."""
        solved = self._solved @ self.weights
        return np.asarray(solve_triangular(self._factor, solved, lower=True, trans="T"))

    def draws(self, x: Array, count: int, rng: np.random.Generator) -> Array:
        """Functions that may be the true one, at (points, features): float64 (count, points)."""
        means, white = self._parts(x)
        scaled = self.prior.transfer.scaled(x)
        k = np.exp(2 * self.settings.log_own) * matern(scaled, scaled)
        if white is not None:
            k -= white.T @ white
        k.flat[:: len(k) + 1] += 1e-4 * np.exp(2 * self.settings.log_own) + JITTER
        root = np.linalg.cholesky(k)
        which = rng.choice(len(self.weights), size=count, p=self.weights)
        apart = (root @ rng.standard_normal((len(x), count))).T
        return means[which] + self.inflation * apart

    def values(self, z: Array | float) -> Array:
        """From the units that all tasks share to the values' scale."""
        return self.settings.y(np.asarray(z, dtype=np.float64))
