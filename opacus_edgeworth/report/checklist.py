"""What a reviewer has to know beyond the numbers: assumptions to check, what is not covered, and where SP 800-226 asks.

The headings are those of the pyramid in NIST SP 800-226 (Near, Darais, Lefkovitz & Howarth 2025), its Figure 1,
https://doi.org/10.6028/NIST.SP.800-226; the answers are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from opacus_edgeworth.report.run import Run

Standing: TypeAlias = Literal["proved here", "recorded by the run", "to be checked", "not covered"]
"""What an answer is worth."""


@dataclass(frozen=True, slots=True)
class Assumption:
    """What must hold for the claim to hold, and how somebody finds out whether it does."""

    holds: str
    verify: str
    breaks: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a run says on one component of a claim of differential privacy."""

    layer: str
    component: str
    says: str
    standing: Standing


POISSON = Assumption(
    "Poisson sampling: every example enters every batch on its own, with the probability that is listed as"
    " sample rate.",
    "The loader is Opacus's DPDataLoader (make_private with poisson_sampling=True, its default). In a log"
    " of batch sizes, they vary from step to step, about as much as the root of their mean.",
    "Shuffled batches of one fixed size, balanced batches, an epoch-wise loader: another mechanism, for"
    " which this ε does not hold.",
)
"""Of runs that have sampled steps."""
ALWAYS = (
    Assumption(
        "Clipping: one example changes the sum of a step's gradients by at most the clipping norm.",
        "Every trainable parameter belongs to the optimizer that Opacus made; its ModuleValidator finds nothing;"
        " no layer mixes the examples of a batch.",
        "Batch normalisation, losses over pairs of examples, parameters that Opacus does not see, data that one"
        " example changes for others (a vocabulary, a scaling learnt from the data).",
    ),
    Assumption(
        "Noise: each step adds independent Gaussian noise of standard deviation noise multiplier × clipping norm to"
        " every trained value.",
        "The optimizer is Opacus's DPOptimizer; its noise_multiplier and max_grad_norm are those of this page;"
        " averaging is by the expected batch size, not the actual one.",
        "Noise added once for several uses of a gradient, or too little of it on several devices.",
    ),
    Assumption(
        "Nobody can predict the noise or the batches.",
        "No seed was set, secure_mode was on or the generator took its state from the operating system, and no"
        " state of a generator was published or kept.",
        "A seed in the code, in a log or easy to guess: whoever has it can subtract the noise.",
    ),
    Assumption(
        "Every step that used the data is in the history of section 3.",
        "The number of steps equals that of the training log, over all restarts; there was one optimizer.",
        "Training on after the accountant was lost, warm-up steps without noise, a second stage on the same data.",
    ),
    Assumption(
        "Noise, rate, clipping norm and number of steps do not depend on the data.",
        "They were fixed before training, or found on public data, or the run ended where the budget did.",
        "Stopping when the loss looks good; a search over settings on the private data.",
    ),
    Assumption(
        "One example is what is to be protected.",
        "Count the rows of one person, one device, one contract: is the largest number 1?",
        "Several rows of one person, duplicates, texts about a person in rows of others.",
    ),
    Assumption(
        "Only what the noise covers is published: weights, of any step, and what is computed from them alone.",
        "Look through what is handed out: no losses of training batches, no batches, no training metrics, no"
        " generator states.",
        "A training log or a checkpoint beside the model.",
    ),
)
"""Of every run."""
NOT_COVERED = (
    "A person with several examples. Each of them is covered, not all at once: with k examples ε is up to k times as"
    " large, at a larger δ. If one person may have several, the data must be grouped by person before training.",
    "Facts about many people. What a model learns about a group, it may say of each member of it, also of those whose"
    " data was never used.",
    "Hyper-parameters chosen by looking at results on this data, and the best one picked from several runs: all runs"
    " belong into one history.",
    "Other releases from the same data: statistics, other models, earlier versions, metrics on training examples."
    " They add up with this run.",
    "The number of training examples, which often follows from the sample rate and the number of steps.",
    "Floating-point noise. The proof is of real Gaussian noise in exact arithmetic; the last bits of floating-point"
    " noise can tell something. (The rounding in the computation of ε itself is bounded.)",
    "Side channels: times, error messages, memory, logs, and checkpoints with the state of a random generator.",
    "What pre-training taught the model, if it was fine-tuned: public weights have a history of their own.",
    "The security of the raw data, before, during and after training.",
)


def assumptions(run: Run) -> tuple[Assumption, ...]:
    """Return what must hold for this run's claim to hold."""
    return (POISSON, *ALWAYS) if any(_is_sampled(entry) for entry in run.history) else ALWAYS


def answers(run: Run, claim: str, certified: bool) -> tuple[Answer, ...]:
    """Return what this run says on every component that SP 800-226 names.

    Args:
      run: what is known of it.
      claim: the claim in words.
      certified: there is a certificate.
    """
    proof = (
        "a certificate in ball arithmetic is below" if certified else "there is no certificate (the reason is below)"
    )
    correct = f"{_mechanisms(run)}; proved for exactly these steps, in both directions of adjacency; {proof}"
    top, middle = "the guarantee", "the algorithm"
    return (
        Answer(
            top, "Privacy parameters",
            f"{claim}; the whole curve and other variants are below. A large ε may mean little in practice: section 5"
            " says what this one allows", "proved here",
        ),
        Answer(
            top, "Unit of privacy",
            "one example, added or removed (unbounded, event level): the same as one person only if nobody has two",
            "to be checked",
        ),
        Answer(middle, "Algorithms and correctness: accounting", correct, "proved here"),
        Answer(
            middle, "Algorithms and correctness: implementation",
            "training code, loader and noise are not seen by accounting: the checklist below", "to be checked",
        ),
        Answer(
            middle, "Utility",
            "measured on held-out examples, elsewhere; metrics on training examples are not private", "not covered",
        ),
        Answer(
            middle, "Bias",
            "clipping and noise can cost small groups more accuracy than large ones: compare them on public data",
            "not covered",
        ),
        *_of_deployment(run),
    )  # fmt: skip


def _of_deployment(run: Run) -> tuple[Answer, ...]:
    """Return the answers on the lowest layer."""
    bottom = "the deployment"
    return (
        Answer(
            bottom, "Trust model",
            "central: who trains sees the raw data and is trusted. The attacker sees all intermediate models, knows"
            " every other example, and may compute without limit", "to be checked",
        ),
        Answer(
            bottom, "Access control and security",
            "raw data, checkpoints and logs stay with those who may see the data", "to be checked",
        ),
        Answer(
            bottom, "Side channels", f"{_randomness(run)}; floating-point noise and times are not covered",
            "to be checked" if run.recorded is None or run.recorded.randomness == "unknown" else "recorded by the run",
        ),
        Answer(
            bottom, "Composition with other releases",
            "this history alone; every other release from the same data is to be added to it", "to be checked",
        ),
        Answer(
            bottom, "Data collection exposure",
            "what is collected can be stolen or subpoenaed, whatever is published: collect and keep no more than"
            " needed",
            "not covered",
        ),
    )  # fmt: skip


def _is_sampled(entry: Any) -> bool:
    """Return whether a phase relies on Poisson sampling."""
    rate = entry[1] if len(entry) == 3 else getattr(entry[0], "sample_rate", 1.0)
    return 0.0 < rate < 1.0


def _mechanisms(run: Run) -> str:
    """Return the mechanism in words."""
    if any(len(entry) == 2 for entry in run.history):
        return "a composition of the mechanisms below"
    sampled = any(_is_sampled(entry) for entry in run.history)
    return f"DP-SGD: clipped gradients plus Gaussian noise{', on Poisson samples' if sampled else ''}"


def _randomness(run: Run) -> str:
    """Return what is recorded of the random generators."""
    kind = "unknown" if run.recorded is None else run.recorded.randomness
    return {
        "secure": "a cryptographic generator made noise and batches (secure_mode)",
        "seed": "a seed determined the noise: see the warnings",
        "system": "torch's generators, with state from the operating system, made noise and batches",
        "unknown": "where noise and batches came from is not recorded",
    }[kind]
