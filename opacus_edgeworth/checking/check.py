"""Whether a training loop does what its accountant is told, and what it spends if not."""

from __future__ import annotations

from typing import Any

from opacus_edgeworth.checking import mistakes
from opacus_edgeworth.checking.facts import Facts, gather
from opacus_edgeworth.checking.findings import Check, Finding
from opacus_edgeworth.checking.spent import steps_of

GRAVITY = {"error": 0, "warning": 1, "note": 2}


def check(training: Any, accountant: Any = None, *, delta: float | None = None, epochs: float | None = None) -> Check:
    """Return what is wrong with a private training loop, and the epsilon that is honest.

    It looks at how the loader draws, what the optimizer adds and clips, and what the accountant is told. It does not
    run anything, and sees nothing of the loop's own code: gradients used without noise, or a loader that is not the
    one given, cannot be found.

    Args:
      training: (model, optimizer, data_loader) or what `make_private` returned, as they are used; or an
        `opacus_edgeworth.PrivacyEngine`, which keeps them.
      accountant: whose claim is judged; that of the engine, or the one that the optimizer tells of its steps, if None.
      delta: in (0, 1), at which epsilons are asked; a tenth of 1 / examples if None.
      epochs: passes over the data: planned, if nothing was recorded yet (1 if None); else that were made so far, which
        finds batches that made no step.

    Returns:
      A Check: print it, ask `.ok`, or call `.raise_if_wrong()`.

    Raises:
      InvalidParameterError: an argument is of another kind, or outside its range.

    Example:
      >>> import torch
      >>> from opacus import PrivacyEngine
      >>> model = torch.nn.Linear(4, 2)
      >>> data = torch.utils.data.TensorDataset(torch.randn(1000, 4), torch.zeros(1000, dtype=torch.long))
      >>> training = PrivacyEngine(accountant="edgeworth").make_private(
      ...     module=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), noise_multiplier=1.0,
      ...     data_loader=torch.utils.data.DataLoader(data, batch_size=50), max_grad_norm=1.0, poisson_sampling=False)
      >>> result = check(training, delta=1e-4, epochs=3)
      >>> result.ok, result.findings[0].name
      (False, 'not-poisson')
      >>> round(result.reported_epsilon, 2), round(result.epsilon, 2)
      (2.29, 7.41)
    """
    facts = gather(training, accountant, delta, epochs)
    findings, spent = [], facts.spent
    for look in mistakes.ALL:
        mistake = look(facts)
        if mistake is None:
            continue
        findings.append(_finding(mistake, facts))
        if mistake.mend is not None and mistake.name != "one-seed":  # that is for a case that may not be
            spent = mistake.mend(spent)
    findings.sort(key=lambda finding: GRAVITY[finding.severity])
    return Check(
        tuple(findings),
        facts.delta,
        steps_of(facts.spent),
        facts.planned,
        facts.spent.epsilon(facts.delta),
        spent.epsilon(facts.delta),
        spent.adjacency,
    )


def _finding(mistake: mistakes.Mistake, facts: Facts) -> Finding:
    """Return a mistake with its own epsilon."""
    if mistake.mend is None:
        return Finding(mistake.name, mistake.severity, mistake.what, mistake.fix)
    alone = mistake.mend(facts.spent)
    return Finding(
        mistake.name, mistake.severity, mistake.what, mistake.fix, alone.epsilon(facts.delta), alone.adjacency
    )
