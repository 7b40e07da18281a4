"""Verdicts on discovered points and on a run, from what `report_measures` measures.

The limits lie between runs of known quality and controls (`benchmarks.report_controls`); their
values are in docs/report.md.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from landmarks_jax.evaluation.report_measures import Measures
from landmarks_jax.training import limits

RELIABLE, DOUBTFUL, UNRELIABLE = "reliable", "doubtful", "unreliable"
SETTLED, MOVING, FAILED = "settled", "still moving", "failed"

# Of the points: with fewer that are reliable a run has failed.
_FEW = 1 / 3
# Of the loss, from the third quarter of the log to the last: where it may still bring much, and
# where it may bring anything.
_FALLS, _STANDS = 0.05, 0.02
# Two points are at one place within this share of a point's spread, or of the view's side in %.
_COLLAPSED, _COLLAPSED_SIDE = 0.25, 1.0


class PointVerdict(NamedTuple):
    """Whether a point is reliable.

    Attributes:
      verdict: `RELIABLE`, `DOUBTFUL` or `UNRELIABLE`.
      cause: the name of the rule that decided; "" for a reliable point.
      reason: in words.
    """

    verdict: str
    cause: str
    reason: str


class Progress(NamedTuple):
    """How far the training of a run is.

    Attributes:
      step: of its newest checkpoint.
      stopped: why it is not complete, in words; "" if it is.
      fall: of the loss, from the third quarter of the log to the last, as a share; None if the log
        is too short.
      decays: whether the learning rate falls to 0; the loss then falls to the end.
      photos: what is wrong with the photos: "mixed" if they fall into groups that look unlike,
        "noise", or "".
    """

    step: int
    stopped: str
    fall: float | None
    decays: bool
    photos: str = ""


class RunVerdict(NamedTuple):
    """The verdict on a run.

    Attributes:
      verdict: `SETTLED`, `MOVING` or `FAILED`.
      reason: in a sentence.
      advice: what to do next, in a sentence.
    """

    verdict: str
    reason: str
    advice: str


class _Rule(NamedTuple):
    """A reason why a point is not reliable.

    Attributes:
      badness: `[K]`, the larger the worse; NaN decides nothing.
      doubtful: the limit above which a point is doubtful.
      unreliable: the limit above which it is unreliable.
      words: the reason, of a point.
    """

    badness: np.ndarray
    doubtful: float
    unreliable: float
    words: Callable[[int], str]


def _rules(measured: Measures, twins: Mapping[int, int]) -> dict[str, _Rule]:
    """The reasons, the most telling first; `twins` as `_twins` returns them."""
    m = measured
    return {
        "stays": _Rule(
            1 - m.follows,
            0.25,
            0.5,
            lambda k: (
                f"stays at its place in the view: goes {_share(m.follows[k])} of the way that the "
                "photo is moved"
            ),
        ),
        "misses": _Rule(
            m.missed,
            0.35,
            0.6,
            lambda k: (
                f"is off by {m.error[k]:.1f} % of the view in moved photos, "
                f"{_share(m.missed[k])} of the way"
            ),
        ),
        "same": _Rule(
            -m.spread,
            -0.5,
            -0.25,
            lambda k: f"is at the same place in all photos, within {m.spread[k]:.2f} % of the view",
        ),
        "collapsed": _Rule(
            np.array([k in twins for k in range(len(m.error))]),
            0,
            0,
            lambda k: (
                f"is at the place of point {twins[k]}: {m.between[k, twins[k]]:.1f} % of the view "
                f"from it, where it varies by {m.spread[k]:.1f} %"
            ),
        ),
        "alone": _Rule(
            1 - m.agreement,
            0.7,
            0.9,
            lambda k: (
                f"jumps about on its own: the other points explain {_share(m.agreement[k])} of its "
                "variance"
            ),
        ),
        "border": _Rule(
            m.border,
            0.2,
            0.5,
            lambda k: f"is at the border of the view in {_share(m.border[k])} of the photos",
        ),
        "unsure": _Rule(
            -m.confidence,
            -0.6,
            -0.4,
            lambda k: f"has a blurred map: {_share(m.confidence[k])} of it near the point",
        ),
    }


def of_points(measured: Measures) -> list[PointVerdict]:
    """The verdict on each point.

    Of the points at one place that with the smallest error is kept, of those that no other rule
    calls unreliable; the reasons of the others name it.
    """
    others = _rules(measured, {}).values()
    unreliable = np.any([rule.badness > rule.unreliable for rule in others], axis=0)
    rules = _rules(measured, _twins(measured, unreliable))
    verdicts = []
    for k in range(len(measured.error)):
        found = [
            PointVerdict(verdict, cause, rule.words(k))
            for verdict in (UNRELIABLE, DOUBTFUL)
            for cause, rule in rules.items()
            if rule.badness[k] > (rule.unreliable if verdict == UNRELIABLE else rule.doubtful)
        ]
        moves = f"moves with the object, off by {measured.error[k]:.1f} % of the view"
        verdicts.append(found[0] if found else PointVerdict(RELIABLE, "", moves))
    return verdicts


def _twins(measured: Measures, unreliable: np.ndarray) -> dict[int, int]:
    """The points at the place of another that is kept, and which: the one nearest to it.

    In the order of their errors, the smallest first, each point is kept that is at the place of
    none kept before; those that are `unreliable` `[K]` for other reasons come last.
    """
    within = np.maximum(_COLLAPSED * measured.spread, _COLLAPSED_SIDE)
    kept: list[int] = []
    twins = {}
    for k in np.lexsort((measured.error, unreliable)).tolist():
        distances = measured.between[k, kept]
        if (distances < within[k]).any():
            twins[k] = kept[distances.argmin()]
        else:
            kept.append(k)
    return twins


def reliable(verdicts: Sequence[PointVerdict]) -> list[int]:
    """The numbers of the reliable points."""
    return [number for number, point in enumerate(verdicts) if point.verdict == RELIABLE]


def progress_of(
    config: ConfigDict,
    rows: Sequence[Mapping[str, Any]],
    step: int,
    seconds: float,
    *,
    photos: str = "",
) -> Progress:
    """How far the training of a run is.

    Args:
      config: its configuration.
      rows: its log.
      step: of its newest checkpoint.
      seconds: trained until then.
      photos: what is wrong with the photos, see `Progress`.
    """
    decay, stopped = config.optimizer.cosine_steps, ""
    if not limits.is_done(config, step, seconds):
        stopped = f"training stopped at step {step:,}, before its end"
    elif step < decay:
        stopped = (
            f"training ended at step {step:,}, before the learning rate's decay ends at step "
            f"{decay:,}"
        )
    losses = [row["loss"] for row in rows if "loss" in row]
    fall, quarter = None, len(losses) // 4
    if quarter:
        before, last = np.mean(losses[-2 * quarter : -quarter]), np.mean(losses[-quarter:])
        fall = float(1 - last / before)
    return Progress(step, stopped, fall, bool(decay), photos)


_CHANGES = {
    "mixed": (
        "the photos fall into groups that look unlike: train on a folder of each kind, or of each "
        "side of the object"
    ),
    "noise": "the photos look like noise, in which nothing can be found: look at the files",
    "stays": (
        "the points do not see the object. Is it large and of one kind in the photos? Crop them to "
        "it, leave out other kinds, compare features of VGG instead of gradients, or train longer"
    ),
    "misses": (
        "the points do not find the same place again. Is it one kind of object? Sort the photos, "
        "use more of them, or fewer points"
    ),
    "same": "the photos are copies of one; points are checked on different photos",
    "collapsed": (
        "points fall together: use fewer of them, or without self-training a larger "
        "config.objective.separation_weight"
    ),
    "alone": (
        "each point jumps about on its own. Is it one kind of object, the same way up? Sort the "
        "photos, or use fewer points"
    ),
    "border": "points lie at the border of the view: leave more room around the object",
    "unsure": "the maps of the points are blurred: train longer, or use fewer points",
}


def of_run(verdicts: Sequence[PointVerdict], progress: Progress) -> RunVerdict:
    """The verdict on a run, from those on its points and its progress."""
    good, count = len(reliable(verdicts)), len(verdicts)
    points = f"{good} of {count} points are reliable"
    fall = progress.fall
    young = bool(progress.stopped) and (fall is None or fall > _STANDS)
    if good < _FEW * count and (progress.photos or not young):
        causes = Counter(point.cause for point in verdicts if point.cause)
        cause = progress.photos or causes.most_common(1)[0][0]
        return RunVerdict(FAILED, f"{points}.", f"{_capital(_CHANGES[cause])}.")
    if progress.stopped:
        return RunVerdict(
            MOVING,
            f"{_capital(progress.stopped)}. So far {points}.",
            "Continue training: rerun the command that trained it; if it ran to its end, with "
            "larger --config.train.minutes or --config.train.steps.",
        )
    if fall is not None and fall > _FALLS and not progress.decays:
        return RunVerdict(
            MOVING,
            f"The loss fell by {_share(fall)} over the last quarter. So far {points}.",
            "Continue training: rerun the command that trained it with larger "
            "--config.train.minutes or --config.train.steps.",
        )
    return RunVerdict(
        SETTLED, f"{points}.", "Keep the reliable points, and name places by a few labels."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _share(share: float) -> str:
    return f"{round(100 * share)} %"
