"""Pictures: what they show is the safe side of what is proved, on the axes that were given."""

import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

import opacus_edgeworth as ew
from opacus_edgeworth import plotting
from opacus_edgeworth.errors import InvalidParameterError, MissingExtraError

mpl.use("Agg")
CURVE = ew.PrivacyCurve([(1.0, 0.01, 1000)])


@pytest.fixture
def axes():
    return Figure().subplots()


def drawn(axes, index=0):
    """Return what a line shows."""
    line = axes.get_lines()[index]
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def test_delta_is_drawn_at_its_upper_end(axes):
    assert plotting.plot_delta(CURVE, epsilons=[0.0, 1.0, 2.0], ax=axes) is axes
    x, y = drawn(axes)
    assert x.tolist() == [0.0, 1.0, 2.0]
    assert y.tolist() == [CURVE.delta(e).upper for e in (0.0, 1.0, 2.0)]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("ε", "δ", "log")


def test_curves_reach_down_to_tiny_deltas_and_mark_the_claim(axes):
    CURVE.plot(delta=1e-5, ax=axes)
    _, y = drawn(axes)
    assert y[-1] == pytest.approx(1e-12, rel=1e-6)
    assert drawn(axes, 1) == (pytest.approx([CURVE.epsilon(1e-5).upper]), pytest.approx([1e-5]))
    assert "ε ≤ 1.829 at δ = 1e-05" in [text.get_text() for text in axes.texts]


def test_several_curves_are_told_apart_without_colour(axes):
    plotting.plot_delta(CURVE, epsilons=[0.5, 1.0], delta=1e-5, label="first", ax=axes)
    plotting.plot_delta(ew.PrivacyCurve([(2.0, 0.01, 1000)]), epsilons=[0.1, 0.2], label="second", ax=axes)
    styles = [line.get_linestyle() for line in axes.get_lines() if len(line.get_xdata()) > 1]
    assert styles == ["-", "--"]


def test_nothing_revealed_is_drawn(axes):
    plotting.plot_delta(ew.PrivacyCurve([]), ax=axes)
    plotting.plot_tradeoff(ew.PrivacyCurve([]), ax=Figure().subplots())


@pytest.mark.parametrize("log", [False, True])
def test_attacks_are_bounded_from_above(axes, log):
    plotting.plot_tradeoff(CURVE, log=log, ax=axes)
    x, y = drawn(axes, 1)  # after the line of guessing
    for alpha, best in list(zip(x, y, strict=True))[1::20]:
        proved = CURVE.true_positive_rate(alpha)
        assert proved.lower <= best <= proved.upper * (1 + 1e-8)
    assert np.all(y >= x)
    assert (axes.get_xscale() == "log") is log


def test_epsilon_over_steps(axes):
    plotting.plot_epsilon_over_steps([1, 2, 3], {"edgeworth": [1.0, 2.0, 3.0], "rdp": [2, 3, 4]}, target=3.0, ax=axes)
    assert drawn(axes, 0)[1].tolist() == [1.0, 2.0, 3.0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["edgeworth", "rdp"]
    with pytest.raises(InvalidParameterError, match="epsilons\\['rdp'\\]"):
        plotting.plot_epsilon_over_steps([1, 2, 3], {"rdp": [1.0, 2.0]}, ax=axes)


def test_plan_has_a_line_for_every_length(axes):
    plan = ew.plan(dataset_size=1000, batch_sizes=[100, 200], epochs=[1, 2], target_epsilon=2, target_delta=1e-4)
    plotting.plot_plan(plan, ax=axes)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["1", "2"]
    assert drawn(axes, 1)[1].tolist() == [p.noise_per_example for p in plan.points if p.epochs == 2]


def test_map_draws_the_worst_on_top(axes):
    plotting.plot_map([1.0, 2.0], [0.1, 0.2], [1e-3, 1e-9], label="width", limits=(1e-12, 1.0), ax=axes)
    assert axes.collections[0].get_offsets().tolist() == [[2.0, 0.2], [1.0, 0.1]]


def test_new_axes_are_made_where_none_are_given():
    axes = CURVE.plot()
    assert axes.get_figure() is not None
    mpl.pyplot.close(axes.get_figure())


def test_matplotlib_is_asked_for_only_then(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"opacus_edgeworth\[plots\]"):
        CURVE.plot()
    assert "matplotlib" in sys.modules  # the tests have it; the message is what is tested


def test_notebooks_show_the_safe_side():
    bounds = ew.Bounds(0.1 + 1e-15, 0.3 - 1e-15)
    assert bounds._repr_html_() == "<b>at most 0.3</b>, at least 0.1 <small>(proved)</small>"
    table = ew.PrivacyCurve([(1.0, 0.01, 1000)])._repr_html_()
    assert "<td>1e-05</td><td>1.8282367</td>" in table
