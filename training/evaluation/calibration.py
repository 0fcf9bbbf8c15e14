"""What probability does a logit stand for? One temperature and one bias, kept only if they help on held-out data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from training.evaluation.threshold import Scored

FOLDS = 5
_LOG_TEMPERATURE_LIMIT = 3.0
"""The temperature is sought from exp(-3) to exp(3)."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """`p_crack = sigmoid(logit / temperature + bias)`.

    `nll_before` and `nll_after` are negative log-likelihoods (nats a tile) on held-out groups, without and with the
    fit; `kept` says whether the fit helped. If not, temperature is 1 and bias 0.
    """

    temperature: float
    bias: float
    nll_before: float
    nll_after: float
    kept: bool

    @property
    def at_limit(self) -> bool:
        """Whether the temperature lies at the end of where it is sought, so that a further one might be better."""
        return bool(abs(abs(np.log(self.temperature)) - _LOG_TEMPERATURE_LIMIT) < 1e-6)

    def p_crack(self, logit: float) -> float:
        """Probability that stands for a logit."""
        value = logit / self.temperature + self.bias
        # never exactly 0 or 1: the manifest wants a threshold between them
        return float(np.clip(1 / (1 + np.exp(-np.clip(value, -500, 500))), 1e-12, 1 - 1e-12))


@dataclass(frozen=True, slots=True)
class Bin:
    """One bar of a reliability diagram: tiles whose p lies from `low` to `high`, their mean p and share of cracks."""

    low: float
    high: float
    mean_p: float
    cracks: float
    tiles: int


def calibrate(scored: Sequence[Scored], *, folds: int = FOLDS, seed: int = 0) -> Calibration:
    """Fits temperature and bias (Guo et al., ICML 2017; with a bias: Platt 1999) on validation sets.

    Classes weigh the same, and within a class every set: p is meant at even odds, whatever the mixture of the sets.
    Whether the fit helps is judged by cross-validation over groups.
    """
    logits, labels, weights, fold_of = _joined(scored, folds, seed)
    before = after = 0.0
    for fold in range(folds):
        inside, outside = fold_of != fold, fold_of == fold
        if not outside.any() or labels[inside].all() or not labels[inside].any():
            continue
        temperature, bias = fit(logits[inside], labels[inside], weights[inside])
        before += _loss(logits[outside], labels[outside], weights[outside], 1.0, 0.0)
        after += _loss(logits[outside], labels[outside], weights[outside], temperature, bias)
    before, after = before / float(weights.sum()), after / float(weights.sum())
    if after < before:
        temperature, bias = fit(logits, labels, weights)
        return Calibration(temperature, bias, before, after, kept=True)
    return Calibration(1.0, 0.0, before, after, kept=False)


def carried_over(scored: Sequence[Scored], *, temperature: float, bias: float) -> Calibration:
    """A calibration that was fitted before, and what it does for the negative log-likelihood of all these tiles."""
    logits, labels, weights, _ = _joined(scored, FOLDS, 0)
    total = float(weights.sum())
    before, after = (_loss(logits, labels, weights, *fitted) / total for fitted in ((1.0, 0.0), (temperature, bias)))
    return Calibration(temperature, bias, before, after, kept=(temperature, bias) != (1.0, 0.0))


def held_out_p(scored: Sequence[Scored], *, folds: int = FOLDS, seed: int = 0) -> Floats:
    """For each tile (all sets joined) the probability by a fit on the other groups: how well a fit does on new ones.

    Same folds as `calibrate` takes. A fold whose complement lacks a class keeps temperature 1 and bias 0.
    """
    logits, labels, weights, fold_of = _joined(scored, folds, seed)
    found = probabilities(logits, 1.0, 0.0)
    for fold in range(folds):
        inside, outside = fold_of != fold, fold_of == fold
        if outside.any() and labels[inside].any() and not labels[inside].all():
            found[outside] = probabilities(logits[outside], *fit(logits[inside], labels[inside], weights[inside]))
    return found


def probabilities(logits: Floats, temperature: float, bias: float) -> Floats:
    """`sigmoid(logit / temperature + bias)`."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits / temperature + bias, -500, 500))), np.float64)


def expected_error(p_crack: Floats, labels: npt.NDArray[np.bool_], weights: Floats, *, bins: int = 10) -> float:
    """Expected calibration error (Naeini et al., AAAI 2015): mean distance of p from the share of cracks in its bar."""
    place = np.minimum((p_crack * bins).astype(int), bins - 1)
    apart = np.bincount(place, weights=weights * (p_crack - labels), minlength=bins)
    return float(np.abs(apart).sum() / weights.sum())


def _joined(
    scored: Sequence[Scored], folds: int, seed: int
) -> tuple[Floats, npt.NDArray[np.bool_], Floats, npt.NDArray[np.int64]]:
    """Logits, labels, weights and fold of all tiles; tiles of a group share a fold."""
    groups = [f"{item.name}/{group}" for item in scored for group in item.groups]
    names, membership = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    fold_of = (np.random.default_rng(seed).permutation(len(names)) % folds)[membership]
    return (
        np.concatenate([item.logits for item in scored]),
        np.concatenate([item.labels for item in scored]),
        balanced_weights(scored),
        fold_of,
    )


def fit(logits: Floats, labels: npt.NDArray[np.bool_], weights: Floats) -> tuple[float, float]:
    """The temperature and bias with the smallest weighted negative log-likelihood; the temperature is positive."""

    def loss(parameters: Floats) -> float:
        temperature = float(np.exp(np.clip(parameters[0], -_LOG_TEMPERATURE_LIMIT, _LOG_TEMPERATURE_LIMIT)))
        # a touch of ridge: separable data would send both to infinity
        return _loss(logits, labels, weights, temperature, float(parameters[1])) / float(weights.sum()) + 1e-4 * float(
            (parameters**2).sum()
        )

    found = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-9, "maxiter": 600})
    limited = np.clip(found.x[0], -_LOG_TEMPERATURE_LIMIT, _LOG_TEMPERATURE_LIMIT)
    return float(np.exp(limited)), float(found.x[1])


def balanced_weights(scored: Sequence[Scored]) -> Floats:
    """A weight for each tile (all sets joined): classes weigh the same, and within a class every set."""
    parts = [np.zeros(len(item.labels)) for item in scored]
    for label in (True, False):
        present = [
            (part, item.labels == label)
            for part, item in zip(parts, scored, strict=True)
            if (item.labels == label).any()
        ]
        for part, of in present:
            part[of] = 1.0 / (len(present) * int(of.sum()))
    return np.concatenate(parts)


def reliability(p_crack: Floats, labels: npt.NDArray[np.bool_], weights: Floats, *, bins: int = 10) -> list[Bin]:
    """The bars of a reliability diagram, empty ones left out."""
    place = np.minimum((p_crack * bins).astype(int), bins - 1)
    found = []
    for index in range(bins):
        of = place == index
        total = float(weights[of].sum())
        if total > 0:
            mean_p = float((weights * p_crack)[of].sum()) / total
            cracks = float((weights * labels)[of].sum()) / total
            found.append(Bin(index / bins, (index + 1) / bins, mean_p, cracks, int(of.sum())))
    return found


def _loss(logits: Floats, labels: npt.NDArray[np.bool_], weights: Floats, temperature: float, bias: float) -> float:
    """Weighted sum of negative log-likelihoods."""
    value = logits / temperature + bias
    return float((weights * np.logaddexp(0.0, np.where(labels, -value, value))).sum())
