"""The study's report: tables with confidence intervals, paired tests over seeds, and pictures."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from study.plan import ACCOUNTANTS, BASELINES, CANDIDATES, TIGHT, make_plan
from study.statistics import Mean, mean_of, paired, seeds_to_see
from study.tasks import DOMAINS, PAIRS

Results = dict[str, dict[str, Any]]
TITLES = {name: domain.title for name, domain in DOMAINS.items()} | {PAIRS: "privacy-policy questions (pairs)"}
NAMES = {"edgeworth": "edgeworth", "prv": "PRV", "rdp": "RDP"}
GREYS = {"edgeworth": "black", "prv": "0.45", "rdp": "0.7"}


class Table:
    """Results by section, label, task, epsilon and accountant, each a list over seeds in their order."""

    def __init__(self, results: Results) -> None:
        """Sort the results."""
        self.rows: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
        for record in sorted(results.values(), key=lambda record: record["seed"]):
            key = (record["section"], record["label"], record["task"], record["epsilon"], record["accountant"])
            self.rows[key].append(record["result"])

    def values(
        self, name: str, section: str, label: str, task: str, epsilon: float | None, accountant: str
    ) -> list[float]:
        """Return one number of every seed; empty if nothing was run."""
        return [row[name] for row in self.rows.get((section, label, task, epsilon, accountant), [])]


def write_report(results: Results, output: Path) -> None:
    """Write study.md and its pictures."""
    table = Table(results)
    parts = [
        "# Accountants and recipes on real tasks\n",
        f"`make study`; {len(results)} of {len(make_plan())} runs, each a line of `study.jsonl`. Test accuracy in"
        " percent, mean over seeds with its 95 % confidence interval (Student's t over seeds: training noise, not"
        " the choice of examples).\n",
        _swap(table),
        _tight(table),
        _recipes(table),
        _confirm(table),
    ]
    _draw_swap(table, output / "study_accountants.png")
    _draw_recipes(table, output / "study_recipes.png")
    (output / "study.md").write_text("\n".join(parts))


def _tasks(table: Table, section: str) -> list[str]:
    """Return the tasks that a section has results for."""
    return [task for task in TITLES if any(key[0] == section and key[2] == task for key in table.rows)]


def _swap(table: Table) -> str:
    """Return the section on swapped accountants."""
    lines = ["## One recipe, three accountants\n"]
    lines += [
        "| task | ε | noise: edgeworth | PRV | RDP | saved over RDP | accuracy: edgeworth | PRV | RDP"
        " | edgeworth − RDP | p |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|---|---|"]
    pooled: list[float] = []
    for task in _tasks(table, "swap"):
        for epsilon in (8.0, 3.0):
            noise = {a: table.values("noise_multiplier", "swap", a, task, epsilon, a) for a in ACCOUNTANTS}
            test = {a: table.values("test", "swap", a, task, epsilon, a) for a in ACCOUNTANTS}
            if not all(len(test[a]) == len(test["rdp"]) > 1 for a in ACCOUNTANTS):
                continue
            gain, p = paired(test["edgeworth"], test["rdp"])
            pooled += (np.array(test["edgeworth"]) - np.array(test["rdp"])).tolist()
            cells = [TITLES[task], f"{epsilon:g}", *(f"{noise[a][0]:.4f}" for a in ACCOUNTANTS)]
            cells += [f"{1.0 - noise['edgeworth'][0] / noise['rdp'][0]:.1%}"]
            cells += [*(mean_of(test[a]).percent() for a in ACCOUNTANTS), gain.points(), f"{p:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
    reference = [
        f"{TITLES[task]} {mean_of(table.values('test', 'reference', 'no noise', task, None, 'none')).percent()}"
        for task in _tasks(table, "reference")
    ]
    lines += ["", f"Without privacy, the same head and optimizer: {'; '.join(reference)}."]
    if len(pooled) > 1:
        gain = mean_of(pooled)
        lines += [
            "",
            f"Over all {gain.count} pairs the difference is {gain.points()} points, with a standard deviation of"
            f" {100.0 * gain.deviation:.2f} points from one pair to the next. A gain of 0.1 points would be seen with"
            f" about {seeds_to_see(0.001, gain.deviation)} pairs, one of 0.5 points with"
            f" {seeds_to_see(0.005, gain.deviation)}.",
        ]
    return "\n".join([*lines, ""])


def _tight(table: Table) -> str:
    """Return the section on few steps and small epsilon."""
    lines = ["## Where RDP is loosest: movie reviews, few steps, small ε\n"]
    lines += ["| setting | noise: edgeworth | RDP | saved | accuracy: edgeworth | RDP | edgeworth − RDP | p |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for label, (epsilon, _) in TIGHT.items():
        pair = [table.rows.get(("tight", label, "movies", epsilon, a), []) for a in ("edgeworth", "rdp")]
        if not len(pair[0]) == len(pair[1]) > 1:
            continue
        ours, theirs = ([row["test"] for row in rows] for rows in pair)
        noise = [rows[0]["noise_multiplier"] for rows in pair]
        gain, p = paired(ours, theirs)
        cells = [label, *(f"{value:.4f}" for value in noise), f"{1.0 - noise[0] / noise[1]:.1%}"]
        cells += [mean_of(ours).percent(), mean_of(theirs).percent(), gain.points(), f"{p:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _recipe_means(table: Table) -> dict[str, tuple[Mean, dict[str, float]]]:
    """Return, for every candidate, its validation accuracy over tasks and seeds, and that of each task."""
    means = {}
    for label in CANDIDATES:
        by_task = {
            task: values
            for task in DOMAINS
            if (values := table.values("validation", "recipe", label, task, 8.0, "edgeworth"))
        }
        if len(by_task) == len(DOMAINS):
            seeds = min(len(values) for values in by_task.values())
            over_tasks = np.mean([values[:seeds] for values in by_task.values()], axis=0).tolist()
            means[label] = (mean_of(over_tasks), {task: float(np.mean(values)) for task, values in by_task.items()})
    return means


def _recipes(table: Table) -> str:
    """Return the section on recipes."""
    lines = ["## Recipes, ε = 8, validation examples only\n"]
    lines += [f"| recipe | mean over tasks | {' | '.join(TITLES[task] for task in DOMAINS)} |"]
    lines += ["|---|---|" + "---|" * len(DOMAINS)]
    for label, (mean, by_task) in sorted(_recipe_means(table).items(), key=lambda item: -item[1][0].value):
        cells = [label, mean.percent(), *(f"{100.0 * by_task[task]:.2f}" for task in DOMAINS)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _confirm(table: Table) -> str:
    """Return the section that compares the chosen recipe with plain ones on test examples."""
    lines = ["## The chosen recipe against plain ones, test examples, ε = 8\n"]
    for label, (description, _) in BASELINES.items():
        lines += [f"Plain: {description}.\n"]
        lines += [
            "| task | plain, RDP's noise | chosen, RDP's noise | chosen, edgeworth | gain | of it by less noise |"
        ]
        lines += ["|---|---|---|---|---|---|"]
        gains: list[list[float]] = []
        for task in _tasks(table, "confirm"):
            plain = table.values("test", "confirm", label, task, 8.0, "rdp")
            chosen, theirs = (table.values("test", "swap", a, task, 8.0, a) for a in ("edgeworth", "rdp"))
            count = min(len(plain), len(chosen), len(theirs))
            if count < 2:
                continue
            gain, _ = paired(chosen[:count], plain[:count])
            part, _ = paired(chosen[:count], theirs[:count])
            gains.append((np.array(chosen[:count]) - np.array(plain[:count])).tolist())
            cells = [TITLES[task], *(mean_of(values[:count]).percent() for values in (plain, theirs, chosen))]
            lines.append(f"| {' | '.join([*cells, gain.points(), part.points()])} |")
        if gains:
            seeds = min(map(len, gains))
            mean = mean_of(np.mean([g[:seeds] for g in gains], axis=0).tolist())
            lines += ["", f"Mean gain over tasks: {mean.points()} points.", ""]
    return "\n".join(lines)


def _draw_swap(table: Table, path: Path) -> None:
    """Draw the accuracy of every task by accountant, with the reference."""
    tasks = _tasks(table, "swap")
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    for axes, epsilon in zip(figure.subplots(1, 2, sharey=True), (8.0, 3.0), strict=True):
        for place, task in enumerate(tasks):
            reference = table.values("test", "reference", "no noise", task, None, "none")
            if reference:
                axes.plot([place - 0.35, place + 0.35], [100.0 * np.mean(reference)] * 2, color="0.6", ls="--", lw=1)
            for shift, accountant in enumerate(ACCOUNTANTS):
                values = table.values("test", "swap", accountant, task, epsilon, accountant)
                if len(values) > 1:
                    mean = mean_of(values)
                    axes.errorbar(
                        place + 0.22 * (shift - 1), 100.0 * mean.value, 100.0 * mean.half, fmt="os^"[shift],
                        color=GREYS[accountant], capsize=3, label=NAMES[accountant] if place == 0 else None,
                    )  # fmt: skip
        axes.set_xticks(
            range(len(tasks)), [TITLES[task].split(" (")[0].replace(" ", "\n").replace("-", "-\n") for task in tasks]
        )
        axes.set_title(f"ε = {epsilon:g}")
    figure.axes[0].set_ylabel("test accuracy, %")
    figure.axes[0].legend(frameon=False, title="noise by")
    figure.savefig(path, dpi=150)


def _draw_recipes(table: Table, path: Path) -> None:
    """Draw the candidates' validation accuracy."""
    means = sorted(_recipe_means(table).items(), key=lambda item: item[1][0].value)
    if not means:
        return
    figure = Figure(figsize=(7.0, 0.32 * len(means) + 1.0), layout="constrained")
    axes = figure.subplots()
    for place, (_, (mean, _)) in enumerate(means):
        axes.errorbar(100.0 * mean.value, place, xerr=100.0 * mean.half, fmt="o", color="black", capsize=3)
    axes.set_yticks(range(len(means)), [label for label, _ in means])
    axes.set_xlabel("validation accuracy, %, mean over four tasks (ε = 8)")
    axes.grid(axis="x", color="0.9")
    figure.savefig(path, dpi=150)
