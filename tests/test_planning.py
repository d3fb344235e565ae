"""Plans: every point proved and least, the best of them, tables, and what is refused."""

import math
from html.parser import HTMLParser

import numpy as np
import pytest

import opacus_edgeworth as ew
from opacus_edgeworth import planning, solving
from opacus_edgeworth.errors import CalibrationError, InvalidParameterError

PROMISE = {"target_epsilon": 3.0, "target_delta": 1e-5}
SIZE = 60_000


@pytest.fixture(scope="module")
def ways() -> ew.Plan:
    return ew.plan(dataset_size=SIZE, batch_sizes=[64, 1000, 7000, SIZE], epochs=[0.5 * 3, 4, 4.3, 30], **PROMISE)


def test_every_point_is_proved_and_least(ways: ew.Plan):
    assert len(ways.points) == 16
    for point in ways.points:
        rate = 1.0 / math.ceil(SIZE / point.batch_size)
        steps = solving.step_count(rate, None, point.epochs)
        assert (point.sample_rate, point.steps) == (rate, steps)
        assert ew.PrivacyCurve([(point.noise_multiplier, rate, steps)]).delta(3.0).upper <= 1e-5
        least = ew.calibrate_noise_multiplier(sample_rate=rate, steps=steps, **PROMISE)
        assert least * (1.0 - 2e-9) <= point.noise_multiplier <= least * (1.0 + 1.1e-6)
        assert point.noise_per_example == point.noise_multiplier / point.batch_size
        assert point.total_noise == pytest.approx(point.noise_per_example / math.sqrt(steps), rel=1e-15)


@pytest.mark.parametrize(
    ("target", "attained"),
    [
        ({"target_advantage": 0.2}, lambda curve: curve.advantage().upper / 0.2),
        ({"target_tpr": 0.1, "target_fpr": 0.01}, lambda curve: curve.true_positive_rate(0.01).upper / 0.1),
        ({"target_mu": 0.6}, lambda curve: curve.gaussian_mu().upper / 0.6),
    ],
)
def test_targets_in_other_units_after_what_was_spent(target, attained):
    before = [(2.0, 0.01, 500)]
    ways = ew.plan(dataset_size=1000, batch_sizes=[50, 200], epochs=2, spent=before, **target)
    for point in ways.points:
        history = [*before, (point.noise_multiplier, point.sample_rate, point.steps)]
        assert 1.0 - 1e-5 <= attained(ew.PrivacyCurve(history)) <= 1.0


def test_neighbours_save_evaluations(monkeypatch: pytest.MonkeyPatch):
    made = []
    known = ew.PrivacyCurve.__init__
    monkeypatch.setattr(
        ew.PrivacyCurve, "__init__", lambda self, *given, **named: (made.append(1), known(self, *given, **named))[1]
    )
    grid = {"batch_sizes": np.geomspace(500, SIZE, 8).astype(int), "epochs": np.geomspace(2, 40, 8)}
    ways = ew.plan(dataset_size=SIZE, **grid, **PROMISE)
    assert len(ways.points) == 64
    assert len(made) <= 3.3 * 64


def test_the_order_of_points_and_repeated_ones():
    ways = ew.plan(dataset_size=100, batch_sizes=[20, 10, 20], epochs=[3, 1, 3], **PROMISE)
    assert [(point.epochs, point.batch_size) for point in ways.points] == [
        (length, size) for length in (3, 1, 3) for size in (20, 10, 20)
    ]
    same = {point.noise_multiplier for point in ways.points if (point.epochs, point.batch_size) == (3, 20)}
    assert max(same) <= min(same) * (1.0 + 1.1e-6)


def test_default_sizes_are_powers_of_two_and_all_data():
    ways = ew.plan(dataset_size=300, epochs=np.int64(2), **PROMISE)
    assert [point.batch_size for point in ways.points] == [32, 64, 128, 256, 300]
    assert ew.plan(dataset_size=7, epochs=2, **PROMISE).points[0].batch_size == 7
    assert ew.plan(dataset_size=300, batch_sizes=64, epochs=2, **PROMISE).points[0].batch_size == 64


def test_best(ways: ew.Plan):
    best = ways.best()
    assert best.noise_per_example == min(point.noise_per_example for point in ways.points)
    limited = ways.best(max_epochs=4, min_steps=100)
    allowed = [point for point in ways.points if point.epochs <= 4 and point.steps >= 100]
    assert limited == min(allowed, key=lambda point: point.noise_per_example)
    with pytest.raises(InvalidParameterError, match=r"max_epochs=0.5, min_steps=1 leave no point; plan"):
        ways.best(max_epochs=0.5)


def test_records_are_rows(ways: ew.Plan):
    rows = ways.records()
    assert [planning.PlanPoint(**row) for row in rows] == list(ways.points)
    rows[0]["batch_size"] = 0
    assert ways.points[0].batch_size != 0


class Tags(HTMLParser):
    """Refuses tags that are not closed in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "br":
            self.open.append(tag)
        self.cells += tag == "td"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_table_for_notebooks(ways: ew.Plan):
    tags = Tags()
    table = ways._repr_html_()
    tags.feed(table)
    assert (tags.open, tags.cells) == ([], 16)
    for words in ("epsilon=3 at delta=1e-05", "60000 examples", "1.5 epochs", "<th>7000</th>"):
        assert words in table
    partial = ew.Plan("<script>alert(1)</script> & more", 10, ways.points[:5])
    tags.feed(partial._repr_html_())
    assert (tags.open, tags.cells) == ([], 16 + 8)
    assert "<script>" not in partial._repr_html_()
    assert "&lt;script&gt;" in partial._repr_html_()
    Tags().feed(ew.Plan("nothing", 10, ())._repr_html_())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset_size": 0}, "dataset_size=0 must be"),
        ({"dataset_size": "many"}, "dataset_size='many' is not"),
        ({"batch_sizes": [0]}, "batch_size=0 must be in"),
        ({"batch_sizes": [10, 101]}, r"batch_size=101 must be in \[1, dataset_size=100\]"),
        ({"batch_sizes": [1.5]}, "batch_size=1.5 must be an integer"),
        ({"batch_sizes": []}, r"batch_sizes=\[\] must be numbers, one at least"),
        ({"batch_sizes": "64"}, "batch_sizes='64' must be numbers"),
        ({"batch_sizes": object}, "batch_sizes=.* must be numbers; pass a list"),
        ({"epochs": []}, r"epochs=\[\] must be numbers, one at least"),
        ({"epochs": [1, 0]}, "epochs=0.0 must be positive"),
        ({"epochs": True}, "epochs=True must be numbers"),
        ({"epochs": None}, "epochs=None must be numbers"),
        ({"epochs": math.nan}, "epochs=nan is not"),
        ({"epochs": [3, 0.01]}, r"epochs=0.01 at sample_rate=0.1 are not a whole step; train longer"),
        ({"epochs": 1e300}, r"epochs=1e\+300 at sample_rate=0.1 are more than"),
        ({"rel_tol": 0.0}, "rel_tol=0.0 must be"),
        ({"spent": [(1.0, 0.5)]}, r"spent\[0\]: .* must be"),
        ({"target_epsilon": -1.0}, "target_epsilon=-1.0 must be"),
        ({"target_mu": 1.0}, "give one target"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_computed(monkeypatch, change, message):
    monkeypatch.setattr(ew.PrivacyCurve, "delta", None)
    arguments = {"dataset_size": 100, "batch_sizes": [10], "epochs": [1]} | PROMISE | change
    with pytest.raises(InvalidParameterError, match=message):
        ew.plan(**arguments)


def test_a_point_that_cannot_meet_the_target():
    with pytest.raises(CalibrationError, match="does not meet the target, advantage 1e-12"):
        ew.plan(dataset_size=100, batch_sizes=[100], epochs=[1], target_advantage=1e-12)
