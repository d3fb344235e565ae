"""Measure what the models of benchmarks/memorisation.py remember, and write it down."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from membership import (
    Flags,
    Reals,
    Roc,
    clopper_pearson,
    exposure,
    likelihood_ratio_scores,
    lines,
    losses_of,
    reference_scores,
    tpr_allowed,
)
from scipy import stats

FPRS = (0.001, 0.01)
TESTS: dict[str, Callable[[Reals, Flags], Reals]] = {
    "loss": lambda margins, member: -losses_of(margins),
    "loss against reference": lambda margins, member: reference_scores(losses_of(margins), member),
    "likelihood ratio": likelihood_ratio_scores,
}
DRAWN = "loss against reference"
COLOURS = ("tab:red", "tab:orange", "tab:blue", "tab:green")
Margins = Mapping[str, Reals]


def measure(margins: Margins, coins: Flags, spare_coins: Flags, tweets: int) -> dict[str, Any]:
    """Return what one way of training remembers.

    Args:
      margins: of the splits "train" (tweets, then canaries), "alternatives" and "test", a row for each model.
      coins: which texts of "train" were in the training data.
      spare_coins: coins for the alternatives, which were never there: they get references as the canaries do.
      tweets: their number.
    """
    real, member = margins["train"][:, :tweets], coins[:, :tweets]
    canary, inserted = margins["train"][:, tweets:], coins[:, tweets:]
    losses, others = losses_of(canary), losses_of(margins["alternatives"])
    against = reference_scores(losses, inserted), reference_scores(others, spare_coins)
    return {
        "accuracy": {
            "test": _over_models((margins["test"] > 0).mean(axis=1)),
            "tweets trained on": float((real[member] > 0).mean()),
            "other tweets": float((real[~member] > 0).mean()),
            "canaries trained on": float((canary[inserted] > 0).mean()),
            "other canaries": float((canary[~inserted] > 0).mean()),
        },
        "exposure": {
            "loss": _exposures(losses, others, inserted),
            "loss against reference": _exposures(-against[0], -against[1], inserted),
        },
        "tweets": {name: _rates(Roc.of(test(real, member), member)) for name, test in TESTS.items()},
        "canaries": {name: _rates(Roc.of(test(canary, inserted), inserted)) for name, test in TESTS.items()},
    }


def _over_models(values: Reals) -> dict[str, float]:
    """Return the mean over the models, and half the width of its 95 % confidence interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return {"mean": float(values.mean()), "half_width": float(half)}


def _exposures(losses: Reals, alternatives: Reals, inserted: Flags) -> dict[str, dict[str, float]]:
    """Return mean exposures of the canaries that a model saw, and of those that it did not."""
    pairs = zip(losses, alternatives, strict=True)
    values = np.array([[exposure(loss, others) for loss in row] for row, others in pairs])
    return {
        name: _over_models(np.array([row[flags].mean() for row, flags in zip(values, chosen, strict=True)]))
        for name, chosen in (("inserted", inserted), ("not inserted", ~inserted))
    }


def _rates(roc: Roc) -> dict[str, Any]:
    """Return the area under a curve, its rates at few false positives, and points to draw it by."""
    count = len(roc.members)
    shown = np.unique(np.geomspace(1, len(roc.others), 120).astype(int)) / len(roc.others)
    return {
        "members": count,
        "others": len(roc.others),
        "auc": roc.auc(),
        "tpr": {f"{fpr:g}": {"value": roc.tpr(fpr), "interval": clopper_pearson(roc.hits(fpr), count)} for fpr in FPRS},
        "curve": [[float(fpr), roc.tpr(fpr)] for fpr in shown],
    }


def allowed(history: list[tuple[float, float, int]], epsilon: float, delta: float) -> dict[str, Any]:
    """Return the largest true positive rates that a history allows, and those that its (epsilon, delta) alone does."""
    fprs = np.geomspace(1e-5, 1.0, 200)
    at = np.array(FPRS)
    return {
        "history": history,
        "epsilon": epsilon,
        "delta": delta,
        "tpr": dict(zip((f"{fpr:g}" for fpr in FPRS), tpr_allowed(history, at).tolist(), strict=True)),
        "tpr_by_one_point": dict(
            zip((f"{fpr:g}" for fpr in FPRS), np.minimum(1.0, lines(epsilon, delta, at)).tolist(), strict=True)
        ),
        "curve": np.stack([fprs, tpr_allowed(history, fprs)], axis=1).tolist(),
    }


def write(results: dict[str, Any], folder: Path) -> str:
    """Write results as JSON, Markdown and a picture; return the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memorisation.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text = to_markdown(results)
    (folder / "memorisation.md").write_text(text, encoding="utf-8")
    draw(results, folder / "memorisation.png")
    return text


def draw(results: dict[str, Any], path: Path) -> None:
    """Save the curves of tweets and canaries, with the bounds."""
    figure = Figure(figsize=(11.0, 5.0), layout="constrained")
    figure.suptitle(f"Who was in the training data? The test: {DRAWN}")
    left, right = figure.subplots(1, 2)
    for axes, what, start in ((left, "tweets", 1e-4), (right, "canaries", 1e-3)):
        for colour, (way, found) in zip(COLOURS, results["ways"].items(), strict=True):
            axes.loglog(*zip(*found[what][DRAWN]["curve"], strict=True), color=colour, label=way)
            if way in results["allowed"]:
                bound = results["allowed"][way]["curve"]
                axes.loglog(*zip(*bound, strict=True), "--", color=colour, label=f"no test can do better at {way}")
        _finish(axes, what, start)
    figure.savefig(path, dpi=120)


def _finish(axes: Axes, what: str, start: float) -> None:
    """Add what all pictures have."""
    axes.plot([start, 1.0], [start, 1.0], ":", color="grey", label="guessing")
    axes.set(xlim=(start, 1.0), ylim=(start, 1.1), xlabel="false positive rate", ylabel="true positive rate")
    axes.set_title(what)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def to_markdown(results: dict[str, Any]) -> str:
    """Return the report."""
    ways, bounds = results["ways"], results["allowed"]
    return "\n".join(
        [
            "# What tuned models remember",
            "",
            *_setting(results),
            "",
            *_table(
                ["trained", "accuracy, test", "tweets trained on", "other tweets", "canaries trained on", "others"],
                [[way, *_accuracy_cells(found["accuracy"])] for way, found in ways.items()],
            ),
            "",
            "## Canaries",
            "",
            *_table(
                ["trained", "exposure, inserted", "not inserted", "against reference, inserted", "not inserted"],
                [[way, *_exposure_cells(found["exposure"])] for way, found in ways.items()],
            ),
            "",
            *_about_exposure(results["experiment"]),
            "",
            "## Membership",
            "",
            *_table(
                ["trained", "texts", "test", "AUC", *(f"TPR at FPR {100 * fpr:g} %" for fpr in FPRS)],
                [
                    [way, what, test, *_rate_cells(found[what][test])]
                    for what in ("tweets", "canaries")
                    for way, found in ways.items()
                    for test in TESTS
                ],
            ),
            "",
            "The most that any test can reach, proved from the run's whole curve δ(ε), and from its one (ε, δ) alone:",
            "",
            *_table(
                [
                    "trained",
                    *(f"TPR at FPR {100 * fpr:g} %, {what}" for what in ("curve", "one point") for fpr in FPRS),
                ],
                [
                    [
                        way,
                        *(f"{100 * value:.1f} %" for key in ("tpr", "tpr_by_one_point") for value in one[key].values()),
                    ]
                    for way, one in bounds.items()
                ],
            ),
            "",
            "![Rates of the test and the bounds](memorisation.png)",
            "",
            *_in_words(results),
            "",
        ]
    )


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table."""
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


def _accuracy_cells(found: Mapping[str, Any]) -> list[str]:
    """Return accuracies in percent."""
    test, *others = found.values()
    return [
        f"{100 * test['mean']:.2f} ± {100 * test['half_width']:.2f} %",
        *(f"{100 * value:.1f} %" for value in others),
    ]


def _exposure_cells(found: Mapping[str, Any]) -> list[str]:
    """Return exposures in bits, with their intervals."""
    return [f"{one['mean']:.2f} ± {one['half_width']:.2f}" for kind in found.values() for one in kind.values()]


def _rate_cells(found: Mapping[str, Any]) -> list[str]:
    """Return area and rates; a rate that a handful of false positives decide is left out."""
    cells = [f"{found['auc']:.3f}"]
    for fpr, one in found["tpr"].items():
        low, high = one["interval"]
        value = f"{100 * one['value']:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"
        cells.append(value if _is_shown(float(fpr), found) else "too few")
    return cells


def _setting(results: dict[str, Any]) -> list[str]:
    """Say what was done."""
    experiment, bounds = results["experiment"], results["allowed"]
    noises = " and ".join(f"{one['history'][0][0]:.4f} for ε = {one['epsilon']:g}" for one in bounds.values())
    rate, steps = next(iter(bounds.values()))["history"][0][1:]
    return [
        f"Command: `make memorisation`; {experiment['models']} models of each kind, seed {experiment['seed']}.",
        "",
        f'Texts: {results["tweets"]} tweets rated positive or negative (the task "tweets" of benchmarks/study), and'
        f" {experiment['canaries']} canaries: {experiment['canary_words']} random words with a random label. A coin"
        " decides, for each model and text anew, whether the text is in the training data; so every text is in about"
        " half of the models, and the other half are what one compares with. Model: a linear head on the mean token"
        " states of a MiniLM's last three layers, which stay as published.",
        "",
        "- *no privacy, to the end*: AdamW on all texts at once, no clipping, no noise,"
        f" {experiment['steps_to_the_end']} steps.",
        f"- *no privacy, same steps*: no clipping and no noise either, but the private runs' {steps} steps, learning"
        f" rate and Poisson batches (rate {rate:g}).",
        f"- *epsilon 8*, *epsilon 3*: the framework's training at δ = {experiment['delta']:g}; noise multipliers"
        f" {noises}, the least that are proved to be enough.",
        "",
        "Accuracies; ± is a 95 % confidence interval over the models:",
    ]


def _about_exposure(experiment: Mapping[str, Any]) -> list[str]:
    """Say what exposure is."""
    count = experiment["alternatives"] + 1
    expected = math.log2(count) - float(np.log2(np.arange(1, count + 1)).mean())
    return [
        f"Exposure (Carlini et al. 2019): log2 {count} less log2 of the rank of a canary's loss among it and"
        f" {experiment['alternatives']} other texts of random words with random labels, none of which any model saw:"
        f" {math.log2(count):g} bits at most, {expected:.2f} where ranks are random. *Against reference*: the loss less"
        " its mean over the other models without the text. Mean over the canaries, ± a 95 % confidence interval over"
        " the models. The canaries are the same in all models and few, so that those not inserted are not exactly at"
        f" {expected:.2f} either: compare the two columns.",
    ]


def _in_words(results: dict[str, Any]) -> list[str]:
    """Say what is to be seen, and what is not."""
    ways, bounds = results["ways"], results["allowed"]
    free, short = ways["no privacy, to the end"], ways["no privacy, same steps"]
    right = ", ".join(
        f"{100 * ways[way]['accuracy']['canaries trained on']:.0f} % at {way}"
        f" ({100 * ways[way]['accuracy']['other canaries']:.0f} % of those it did not see)"
        for way in bounds
    )
    rates = ", ".join(
        f"{_found(ways[way])} at {way} (at most {100 * bounds[way]['tpr']['0.01']:.0f} %)" for way in bounds
    )
    costs = ", ".join(
        f"{100 * (ways[way]['accuracy']['test']['mean'] - short['accuracy']['test']['mean']):+.1f} points at {way}"
        for way in bounds
    )
    private = "; ".join(case for way in bounds for case in _above(way, ways[way], {way: bounds[way]}))
    refuted = [case for way, found in ways.items() if way not in bounds for case in _above(way, found, bounds)]
    return [
        "## In plain words",
        "",
        "Without privacy, and trained to the end, the head gives"
        f" {100 * free['accuracy']['canaries trained on']:.0f} % of the senseless canaries the random label that they"
        f" came with, of those it did not see {100 * free['accuracy']['other canaries']:.0f} %. It remembers them, with"
        f" no more than a linear layer. With privacy it is {right}.",
        "",
        f"Of the tweets that were trained on, the {DRAWN} finds, with 1 % false alarms, {_found(free)} without privacy,"
        f" {_found(short)} without it after as few steps as the private runs have, {rates}; guessing finds 1 %. Most"
        " tweets are easy, and a model needs to remember little of them: that is why even the model without privacy"
        " gives few of them away. The loss alone, without a reference, finds"
        f" {_found(free, test='loss')} even of its tweets: what it mostly sees is which texts are hard. Canaries are"
        f" the harder trial; of them the likelihood ratio finds {_found(free, 'canaries', 'likelihood ratio')} without"
        f" privacy, {_found(short, 'canaries', 'likelihood ratio')} without it after few steps, "
        + ", ".join(f"{_found(ways[way], 'canaries', 'likelihood ratio')} at {way}" for way in bounds)
        + ".",
        "",
        f"What privacy costs in accuracy here, against the same steps without it: {costs}.",
        "",
        f"Private models above their own proved bound (lower end of the 95 % interval): {private or 'none'}.",
        "",
        "Models without privacy above the bound of a private run, which nothing as private as that run could be (among"
        " several tests and rates, so that a single narrow case proves little):",
        "",
        *([f"- {case}" for case in refuted] or ["none."]),
        "",
        "How far the tests stay below the bound does not tell how loose the bound is. It holds for the strongest test"
        " there can be: one that sees the noisy gradient of every step, knows all other texts and picks the worst one."
        " The tests here see the labels' probabilities at the end, and typical texts. Nor does a small rate here prove"
        " privacy: attacks only get better. The bound from the whole curve is much below what the single pair (ε, δ)"
        " allows: that is what an accountant that gives the curve is good for.",
        "",
        "What to keep in mind: one data set, one frozen encoder and a linear head; nothing is said about larger trained"
        " parts. Every canary is inserted once; copies would be remembered better, and ε is for one row."
        " Clopper-Pearson intervals take all pairs of model and text as independent, though they share models and"
        " texts: true intervals are wider, above all for the few canaries. As everywhere in the framework, the number"
        " of training texts is not protected; the plan (noise, rate, steps, expected batch) does not depend on the"
        " coins.",
    ]


def _found(way: Mapping[str, Any], what: str = "tweets", test: str = DRAWN) -> str:
    """Return in percent how many texts a test finds at 1 % false positives."""
    return f"{100 * way[what][test]['tpr']['0.01']['value']:.1f} %"


def _above(way: str, found: Mapping[str, Any], bounds: Mapping[str, Any]) -> list[str]:
    """Return where the lower end of an interval is above a bound; of several bounds, the largest that it is above."""
    cases = []
    for what in ("tweets", "canaries"):
        for test, rates in found[what].items():
            for fpr, one in rates["tpr"].items():
                low = one["interval"][0]
                over = {name: bound["tpr"][fpr] for name, bound in bounds.items() if low > bound["tpr"][fpr]}
                if over and _is_shown(float(fpr), rates):
                    name = max(over, key=lambda name: over[name])
                    cases.append(
                        f"{way}, {what}, {test}, FPR {100 * float(fpr):g} %: at least {100 * low:.1f} %, at {name} at"
                        f" most {100 * over[name]:.1f} %"
                    )
    return cases


def _is_shown(fpr: float, rates: Mapping[str, Any]) -> bool:
    """Whether so many false positives are allowed that the rate is not decided by a handful of texts."""
    return fpr * rates["others"] >= 10
