"""The pieces of the memorisation benchmark that could be wrong: exposure, scores, rates, and the bound on them."""

import json
import math
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import membership
import memorisation
import memorisation_report


@pytest.mark.parametrize(("loss", "expected"), [(0.05, 3.0), (0.15, 2.0), (0.2, math.log2(8 / 3)), (9.0, 0.0)])
def test_exposure_of_a_made_up_case(loss, expected):
    alternatives = np.array([0.7, 0.1, 0.6, 0.2, 0.5, 0.4, 0.3])  # with the canary eight: three bits
    assert membership.exposure(loss, alternatives) == pytest.approx(expected)


def test_exposure_of_what_was_never_seen_is_that_of_a_uniform_rank():
    random = np.random.default_rng(0)
    values = [membership.exposure(row[0], row[1:]) for row in random.normal(size=(4000, 64))]
    expected = 6.0 - np.log2(np.arange(1, 65)).mean()
    assert np.mean(values) == pytest.approx(expected, abs=4.0 * np.std(values) / math.sqrt(4000))


def test_losses_keep_their_digits_where_the_model_is_sure():
    assert membership.losses_of(np.array([0.0, 50.0, -50.0])) == pytest.approx([math.log(2), math.exp(-50), 50.0])


def test_a_reference_leaves_out_the_model_itself_and_those_with_the_example():
    losses = np.array([[1.0], [2.0], [4.0], [7.0], [8.0]])
    member = np.array([[True], [False], [False], [False], [True]])
    scores = membership.reference_scores(losses, member)[:, 0]
    assert scores == pytest.approx([13 / 3 - 1.0, 5.5 - 2.0, 4.5 - 4.0, 3.0 - 7.0, 13 / 3 - 8.0])
    with pytest.raises(ValueError, match="too few models"):
        membership.reference_scores(losses[:3], member[:3])


def test_a_likelihood_ratio_finds_members_and_nothing_where_there_is_nothing():
    random = np.random.default_rng(1)
    member = random.random((40, 300)) < 0.5
    hardness = random.normal(scale=10.0, size=300)  # of the examples: what references are there for
    noise = random.normal(size=(40, 300))
    for shift, expected in ((2.0, stats.norm.cdf(2.0 / math.sqrt(2.0))), (0.0, 0.5)):
        scores = membership.likelihood_ratio_scores(hardness + noise + shift * member, member)
        assert membership.Roc.of(scores, member).auc() == pytest.approx(expected, abs=0.02)


def test_rates_of_a_made_up_case():
    scores = np.array([0.9, 0.8, 0.7, 0.3, 0.85, 0.6, 0.2, 0.1])
    member = np.array([True, True, True, True, False, False, False, False])
    roc = membership.Roc.of(scores, member)
    assert [roc.tpr(fpr) for fpr in (0.0, 0.24, 0.25, 0.5, 0.75, 1.0)] == [0.25, 0.25, 0.75, 1.0, 1.0, 1.0]
    assert roc.auc() == pytest.approx((4 + 3 + 3 + 2) / 16)
    equal = membership.Roc.of(np.zeros(8), member)  # a test that says nothing
    assert equal.auc() == pytest.approx(0.5)
    assert equal.tpr(0.5) == 0.0


@pytest.mark.parametrize(("hits", "low", "high"), [(0, 0.0, 0.3085), (3, 0.0667, 0.6525), (10, 0.6915, 1.0)])
def test_clopper_pearson_of_ten(hits, low, high):
    assert membership.clopper_pearson(hits, 10) == pytest.approx((low, high), abs=1e-4)  # printed tables have these


@pytest.mark.parametrize("noise_multiplier", [0.5, 1.0, 3.0])
def test_the_bound_is_that_of_a_gaussian_where_it_is_one(noise_multiplier):
    fprs = np.geomspace(1e-5, 0.999, 60)
    exact = stats.norm.cdf(stats.norm.ppf(fprs) + 1.0 / noise_multiplier)  # Neyman & Pearson
    bound = membership.tpr_allowed([(noise_multiplier, 1.0, 1)], fprs)
    assert (bound >= exact).all()
    assert (bound <= exact * (1.0 + 2e-3)).all()


def test_the_bound_rises_is_concave_and_tighter_than_one_point_of_the_curve():
    history, fprs = [(0.8, 0.25, 32)], np.linspace(0.0, 1.0, 201)
    bound = membership.tpr_allowed(history, fprs)
    assert (np.diff(bound) >= 0.0).all()
    assert (np.diff(bound, 2) <= 1e-12).all()
    assert (bound >= fprs).all()
    assert bound[0] <= 1e-9
    assert bound[-1] == 1.0
    delta = membership.PrivacyCurve(history).delta(8.0).upper
    assert (bound <= membership.lines(8.0, delta, fprs) + 1e-3).all()


@pytest.fixture
def folder(tmp_path):
    """A folder as the study's, with a tiny model, and made-up texts, of which half are 901 to 1,200."""
    import tiny  # needs the framework's packages

    source = random.Random(0)
    words = [f"w{chr(97 + a)}{chr(97 + b)}" for a in range(10) for b in range(10)]
    lines = [
        f"{row}\t{source.choice((-2.0, 2.0))}\t{row} {' '.join(source.choices(words, k=5))}" for row in range(3400)
    ]
    (tmp_path / "tweets_GroundTruth.txt").write_text("\n".join(lines), encoding="utf-8")
    tiny.saved_model(tmp_path / "model")
    (tmp_path / "model" / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_models(folder):
    experiment = memorisation.Experiment(models=3, canaries=20, alternatives=63, steps_to_the_end=30, epochs=1)
    found = memorisation.run(experiment, folder)
    kept = sorted(folder.glob("memorisation/*/*.npz"))
    assert len(kept) == 4 * experiment.models
    for path in kept[::5]:
        path.unlink()
    again = memorisation.run(experiment, folder)
    for way, margins in found.items():
        for name, values in margins.items():
            np.testing.assert_array_equal(values, again[way][name], err_msg=f"{way}, {name}")
    trained_on = experiment.coins(found["epsilon 8"]["train"].shape[1])
    plain = found["no privacy, to the end"]["train"]
    assert plain[trained_on].mean() > plain[~trained_on].mean()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report on made-up models: what was trained on has a larger margin, much larger without privacy."""
    folder = tmp_path_factory.mktemp("results")
    experiment = memorisation.Experiment(models=32, canaries=40, alternatives=63)
    random = np.random.default_rng(0)
    coins = experiment.coins(440)
    gain = {"no privacy, to the end": 4.0, "no privacy, same steps": 1.0, "epsilon 8": 0.2, "epsilon 3": 0.0}
    found = {
        way: {
            "train": random.normal(size=(32, 440)) + shift * coins,
            "alternatives": random.normal(size=(32, 63)),
            "test": 1.0 + random.normal(size=(32, 100)),
        }
        for way, shift in gain.items()
    }
    results = memorisation.results_of(experiment, found)
    return results, memorisation_report.write(results, folder), folder


def test_a_report_finds_what_was_put_in(report):
    results, _, _ = report
    ways = results["ways"]
    for what in ("tweets", "canaries"):
        areas = [found[what]["likelihood ratio"]["auc"] for found in ways.values()]
        assert areas[0] == pytest.approx(stats.norm.cdf(4.0 / math.sqrt(2.0)), abs=0.01)
        assert areas[3] == pytest.approx(0.5, abs=0.03)
    exposures = ways["no privacy, to the end"]["exposure"]["loss against reference"]
    assert exposures["inserted"]["mean"] > 3.0
    null = 6.0 - np.log2(np.arange(1, 65)).mean()
    for kind in ways["epsilon 3"]["exposure"].values():
        for one in kind.values():
            assert one["mean"] == pytest.approx(null, abs=2.5 * one["half_width"])
    test = ways["epsilon 3"]["accuracy"]["test"]
    assert test["mean"] == pytest.approx(stats.norm.cdf(1.0), abs=0.02)


def test_a_report_names_models_above_a_bound_and_is_written_down(report):
    results, text, folder = report
    for way, one in results["allowed"].items():
        assert membership.PrivacyCurve(one["history"]).epsilon(one["delta"]).upper <= memorisation.PRIVATE[way]
        assert all(one["tpr"][fpr] <= one["tpr_by_one_point"][fpr] + 1e-3 for fpr in one["tpr"])
    assert "(lower end of the 95 % interval): none." in text
    assert "no privacy, to the end, tweets, likelihood ratio, FPR 1 %" in text
    assert (folder / "memorisation.md").read_text(encoding="utf-8") == text
    assert (folder / "memorisation.png").stat().st_size > 10_000
    assert json.loads((folder / "memorisation.json").read_text())["ways"].keys() == results["ways"].keys()


def test_canaries_and_coins_follow_from_the_seed():
    experiment = memorisation.Experiment(models=5)
    words = [f"word{number}" for number in range(500)]
    first, again = (memorisation.random_texts(words, 30, experiment, "canaries") for _ in range(2))
    other = memorisation.random_texts(words, 30, experiment, "alternatives")
    assert first == again
    assert len({*first.texts, *other.texts}) == 60
    assert set(first.labels) == {0, 1}
    coins = experiment.coins(1000)
    assert coins.shape == (5, 1000)
    assert (coins == experiment.coins(1000)).all()
    assert abs(coins.mean() - 0.5) < 0.05
