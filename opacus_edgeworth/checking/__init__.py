"""Whether a training loop does what the accountant is told: `check`, and an engine that asks it at once."""
