"""Verdicts on points and runs: each rule, and the stored measures of runs of known quality."""

import dataclasses
import itertools
import json
import re

import numpy as np
import pytest

from benchmarks import report_controls
from landmarks_jax.evaluation import report_verdict
from landmarks_jax.evaluation.report_measures import Measures
from landmarks_jax.evaluation.report_verdict import (
    DOUBTFUL,
    FAILED,
    MOVING,
    RELIABLE,
    SETTLED,
    UNRELIABLE,
    PointVerdict,
    Progress,
)
from landmarks_jax.system.errors import UserError
from tests.running import ROOT, narrow

STORED = ROOT / "docs/results/benchmarks/report_cpu.json"
RESULT = json.loads(STORED.read_text())
CASES = RESULT["cases"]
COMPLETE = Progress(100, "", 0.0, True)


def good(count=4, **changes):
    """Measures of reliable points; of the first, some as given."""
    values = {
        "error": 0.8,
        "missed": 0.1,
        "follows": 0.98,
        "confidence": 0.9,
        "spread": 6.0,
        "nearest": 1,
        "distance": 8.0,
        "border": 0.0,
        "agreement": 0.9,
    }
    arrays = {name: np.full(count, value) for name, value in values.items()}
    for name, value in changes.items():
        arrays[name][0] = value
    return Measures(**arrays, between=between(arrays["nearest"], arrays["distance"]))


def between(nearest, distance):
    """Distances of which those to the nearest are known; all others are infinite."""
    count = len(nearest)
    distances = np.where(np.eye(count), 0, np.inf)
    distances[np.arange(count), nearest] = distance
    return distances


def placed(places, errors):
    """Measures of points at places `[K, 2]`, in per cent of the view, with these errors."""
    distances = np.linalg.norm(places[:, None] - places, axis=-1)
    measured = good(len(errors))
    return dataclasses.replace(measured, error=np.array(errors), between=distances)


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({}, RELIABLE, "moves with the object, off by 0.8 % of the view"),
        (
            {"follows": 0.1, "missed": 0.9},
            UNRELIABLE,
            "stays at its place in the view: goes 10 % of",
        ),
        ({"follows": 0.7}, DOUBTFUL, "stays at its place in the view: goes 70 % of"),
        (
            {"missed": 0.7, "error": 4.2},
            UNRELIABLE,
            "is off by 4.2 % of the view in moved photos, 70 %",
        ),
        ({"missed": 0.5}, DOUBTFUL, "is off by 0.8 % of the view in moved photos, 50 %"),
        ({"spread": 0.1}, UNRELIABLE, "is at the same place in all photos, within 0.10 %"),
        (
            {"distance": 1.2, "error": 1.0},
            UNRELIABLE,
            "is at the place of point 1: 1.2 % of the view",
        ),
        ({"distance": 1.2, "error": 0.7}, RELIABLE, "moves with the object"),
        (
            {"agreement": 0.05},
            UNRELIABLE,
            "jumps about on its own: the other points explain 5 % of",
        ),
        ({"agreement": 0.25}, DOUBTFUL, "jumps about on its own"),
        ({"agreement": np.nan, "distance": np.nan}, RELIABLE, "moves with the object"),
        ({"border": 0.3}, DOUBTFUL, "is at the border of the view in 30 % of the photos"),
        ({"border": 0.6}, UNRELIABLE, "is at the border of the view in 60 % of the photos"),
        ({"confidence": 0.5}, DOUBTFUL, "has a blurred map: 50 % of it near the point"),
        # Unreliable goes before doubtful.
        ({"follows": 0.7, "border": 0.6}, UNRELIABLE, "is at the border of the view in 60 %"),
    ],
)
def test_each_reason(changes, verdict, reason):
    first, *others = report_verdict.of_points(good(**changes))
    assert first.verdict == verdict
    assert first.reason.startswith(reason)
    assert {point.verdict for point in others} == {RELIABLE}


def test_a_blurred_point_takes_no_place_from_a_good_one():
    measured = placed(np.array([[10.0, 10], [10.4, 10], [40, 40]]), [0.1, 0.2, 0.3])
    measured = dataclasses.replace(measured, confidence=np.array([0.3, 0.9, 0.9]))
    verdicts = report_verdict.of_points(measured)
    assert report_verdict.reliable(verdicts) == [1, 2]
    assert verdicts[0].cause == "collapsed"


def test_of_several_points_at_one_place_the_best_is_kept():
    places = np.array([[10.0, 10], [10.4, 10], [10.4, 10.6], [40, 40], [10.8, 10]])
    errors = [0.9, 0.6, 0.7, 0.8, 0.5]
    for points in itertools.permutations(range(5)):
        for count in (3, 4, 5):
            chosen = list(points[:count])
            measured = placed(places[chosen], [errors[k] for k in chosen])
            verdicts = report_verdict.of_points(measured)
            together = [k for k in chosen if k != 3]
            best = min(together, key=lambda k: errors[k])
            assert report_verdict.reliable(verdicts) == [
                place for place, k in enumerate(chosen) if k in (3, best)
            ]
            other = chosen.index(best)
            for place, k in enumerate(chosen):
                if k not in (3, best):
                    distance = np.linalg.norm(places[k] - places[best])
                    assert verdicts[place].reason == (
                        f"is at the place of point {other}: {distance:.1f} % of the view from it, "
                        "where it varies by 6.0 %"
                    )


def test_a_point_near_one_that_is_not_kept_is_kept():
    """Of three in a row, each within the limit of 1.5 of the next alone, the outer two."""
    places = np.array([[10.0, 10], [11, 10], [12, 10]])
    for errors, kept in (([0.5, 0.6, 0.7], [0, 2]), ([0.6, 0.5, 0.7], [1]), ([0.5] * 3, [0, 2])):
        verdicts = report_verdict.of_points(placed(places, errors))
        assert report_verdict.reliable(verdicts) == kept


# By measure: doubtful and unreliable, in the order of docs/report.md, in per cent.
LIMITS = {
    "follows": [75, 50],
    "missed": [35, 60],
    "spread": [0.5, 0.25],
    "agreement": [30, 10],
    "border": [20, 50],
    "confidence": [60, 40],
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_where_the_docs_say(name):
    doubtful, reject = (limit if name == "spread" else limit / 100 for limit in LIMITS[name])
    step = 0.001 if reject > doubtful else -0.001  # to the worse side
    values = (doubtful - step, doubtful + step, reject - step, reject + step)
    verdicts = [report_verdict.of_points(good(**{name: value}))[0].verdict for value in values]
    assert verdicts == [RELIABLE, DOUBTFUL, DOUBTFUL, UNRELIABLE]


def test_the_docs_have_these_limits():
    lines = (ROOT / "docs/report.md").read_text().splitlines()
    rows = [
        line for line in lines if line.startswith(("| it ", "| its ")) and "another" not in line
    ]
    stated = [[float(number) for number in re.findall(r"([\d.]+) %", row)] for row in rows]
    assert stated == list(LIMITS.values())


def points(reliable, count=12, cause="stays"):
    bad = PointVerdict(UNRELIABLE, cause, "")
    return [PointVerdict(RELIABLE, "", "")] * reliable + [bad] * (count - reliable)


@pytest.mark.parametrize(
    ("reliable", "progress", "verdict", "words"),
    [
        (12, COMPLETE, SETTLED, "12 of 12 points"),
        (4, COMPLETE, SETTLED, "4 of 12 points"),
        (3, COMPLETE, FAILED, "3 of 12 points"),
        # Without a decay of the learning rate, a loss that falls has not ended.
        (12, Progress(100, "", 0.06, False), MOVING, "The loss fell by 6 % over the last quarter"),
        (12, Progress(100, "", 0.04, False), SETTLED, "12 of 12 points"),
        (12, Progress(100, "", 0.06, True), SETTLED, "12 of 12 points"),
        (12, Progress(100, "", None, False), SETTLED, "12 of 12 points"),
        (12, Progress(100, "stopped", 0.0, True), MOVING, "Stopped. So far 12 of 12 points"),
        # What has no reliable point and is not getting better has failed, however short it was.
        (0, Progress(100, "stopped", 0.2, True), MOVING, "Stopped. So far 0 of 12 points"),
        (0, Progress(100, "stopped", None, True), MOVING, "Stopped. So far 0 of 12 points"),
        (0, Progress(100, "stopped", 0.01, True), FAILED, "0 of 12 points"),
        (0, Progress(100, "stopped", 0.2, True, photos="mixed"), FAILED, "0 of 12 points"),
        (12, Progress(100, "", 0.0, True, photos="mixed"), SETTLED, "12 of 12 points"),
        (0, Progress(100, "", 0.2, False), FAILED, "0 of 12 points"),
    ],
)
def test_the_verdict_on_a_run(reliable, progress, verdict, words):
    run = report_verdict.of_run(points(reliable), progress)
    assert run.verdict == verdict
    assert run.reason.startswith(words)
    assert run.advice


def test_what_failed_decides_what_to_change():
    mixed = points(0, 5, "alone") + points(0, 3, "collapsed")
    assert "Sort the photos" in report_verdict.of_run(mixed, COMPLETE).advice
    progress = COMPLETE._replace(photos="mixed")
    assert "a folder of each kind" in report_verdict.of_run(mixed, progress).advice
    assert "copies of one" in report_verdict.of_run(points(0, cause="same"), COMPLETE).advice


def test_progress_is_read_from_the_log():
    config = narrow(train__steps=100, optimizer__cosine_steps=0)
    rows = [{"step": step, "loss": loss} for step, loss in enumerate([9, 9, 4, 4, 3, 3, 2, 1], 1)]
    assert report_verdict.progress_of(config, rows, 100, 60.0) == (100, "", 0.5, False, "")
    stopped = report_verdict.progress_of(config, rows[:3], 80, 60.0)
    assert stopped == (80, "training stopped at step 80, before its end", None, False, "")
    config = narrow(train__steps=0, train__minutes=1.0, optimizer__cosine_steps=200)
    over = report_verdict.progress_of(config, rows, 100, 60.0)
    reason = "training ended at step 100, before the learning rate's decay ends at step 200"
    assert over.stopped == reason
    assert over.decays
    assert report_verdict.progress_of(config, rows, 200, 60.0).stopped == ""
    config = narrow(train__steps=100, optimizer__cosine_steps=200)
    assert report_verdict.progress_of(config, rows, 100, 60.0).stopped == reason


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_runs_of_known_quality_get_the_right_verdict(case):
    arrays = {
        name: np.array([np.nan if value is None else value for value in values])
        for name, values in case["measures"].items()
    }
    arrays["nearest"] = arrays["nearest"].astype(int)
    measured = Measures(**arrays, between=between(arrays["nearest"], arrays["distance"]))
    verdicts = report_verdict.of_points(measured)
    run = report_verdict.of_run(verdicts, Progress(**case["progress"]))
    assert run.verdict == case["expected"]
    assert report_verdict.reliable(verdicts) == case["believed"]


def test_all_kinds_of_runs_are_stored():
    assert {case["expected"] for case in CASES} == {SETTLED, MOVING, FAILED}


def test_the_stored_table_is_that_of_the_stored_numbers():
    assert STORED.with_suffix(".md").read_text() == report_controls.to_markdown(RESULT)


def test_a_case_keeps_what_the_verdict_needs():
    line = report_controls.case("name", SETTLED, good(distance=np.nan), COMPLETE)
    assert line["measures"]["distance"] == [None, 8.0, 8.0, 8.0]
    assert (line["verdict"], line["believed"]) == (SETTLED, [0, 1, 2, 3])
    with pytest.raises(UserError, match="--run good:there: must be VERDICT:FOLDER"):
        report_controls.of_run("good:there")
