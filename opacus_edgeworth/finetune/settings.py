"""How to fine-tune: every setting of a run, checked before anything else is done."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from opacus_edgeworth._validate import as_delta, as_epsilon, as_noise_multiplier, as_real
from opacus_edgeworth.errors import InvalidParameterError

Method = Literal["full", "lora", "bitfit", "head"]
Accountant = Literal["edgeworth", "prv", "rdp"]
Clipping = Literal["flat", "per_layer"]
Pooling = Literal["model", "mean"]
GradSampleMode = Literal["auto", "hooks", "ghost"]
Switch = Literal["auto", "on", "off"]
Precision = Literal["auto", "fp32", "bf16"]
Schedule = Literal["constant", "linear"]
HeadInit = Literal["auto", "zero", "keep"]

NOT_COMPARED = ("checkpoint_every", "progress", "cache_dir", "feature_cache_gib")  # they do not change the result


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """The settings of a run.

    The defaults (a linear head on frozen layers) are the recipe that `make study` is about, on four tasks with a
    six-layer model (benchmarks/results/study.md). Where there is much data, try other methods.

    Args:
      target_epsilon: privacy budget, > 0; the noise is calibrated to it, or the run ends at it if noise_multiplier is
        given too. None only with noise_multiplier.
      target_delta: in (0, 1 / n) for n training examples; None takes the largest power of ten below 1 / n.
      noise_multiplier: noise standard deviation over the clipping norm, > 0, instead of a calibrated one.
      accountant: which one calibrates the noise. ε of the run is always the certified one; "prv" and "rdp" are there to
        compare.
      epochs: passes over the data, >= 1, each of ceil(n / batch_size) steps.
      batch_size: expected size of a Poisson batch, >= 1. What Opacus samples with is 1 / ceil(n / batch_size).
      physical_batch_size: examples whose gradients are held in memory at once; None: 64, or 1024 where all layers are
        frozen and their outputs kept.
      max_grad_norm: clipping norm of one example's gradient, > 0.
      clipping: "flat", one norm for the whole gradient; "per_layer", max_grad_norm / sqrt(tensors) for each tensor.
      method: "full", "lora", "bitfit" (biases) or "head" (the classifier alone).
      top_layers: encoder layers, from the top, that may change; None: all of them. Ignored by "head".
      lora_rank: rank of LoRA's updates of the query and value projections.
      lora_alpha: their scale; None: twice the rank.
      train_embeddings: let "full" change the embeddings too (much memory, much noise).
      pooling: "mean", a linear head on the mean token states of the last `pooling_layers` layers, which suits noisy
        training; "model", the model's own classification head, for models that have learnt one.
      pooling_layers: see pooling; None: six, or all layers if the model has fewer.
      head_init: "zero" starts the classifier's last layer at zero, "keep" as loaded; "auto" keeps it only where it was
        in the checkpoint.
      learning_rate: of all but the head, > 0.
      head_learning_rate: of the head; None: the same.
      weight_decay: of AdamW, >= 0.
      schedule: "constant", or "linear" decay to zero.
      max_tokens: longer texts are cut off; None: what the model allows.
      dropout: probability in every dropout layer; None keeps the model's own.
      grad_sample_mode: "hooks" (per-example gradients), "ghost" (their norms alone), or "auto": ghost where hooks would
        need more than 1 GiB for them.
      feature_cache: keep the outputs of frozen lower layers instead of computing them again in every step; "auto" where
        that is exact and they fit into feature_cache_gib.
      feature_cache_gib: see feature_cache.
      cache_dir: folder to keep these outputs in for later runs (as private as the data); None keeps them in memory.
      precision: "fp32", "bf16" (CUDA), or "auto": bf16 on CUDA devices that have it.
      device: a torch device; None: CUDA where available.
      seed: makes a demonstration repeatable. Who knows it can compute the noise: leave it out for private data.
      secure_mode: cryptographic noise (needs torchcsprng); excludes seed.
      checkpoint_every: steps between checkpoints, where an output folder is given.
      progress: show a progress bar.

    Raises:
      InvalidParameterError: a value is outside its range, or two contradict each other.
    """

    target_epsilon: float | None = None
    target_delta: float | None = None
    noise_multiplier: float | None = None
    accountant: Accountant = "edgeworth"
    epochs: int = 10
    batch_size: int = 1024
    physical_batch_size: int | None = None
    max_grad_norm: float = 0.5
    clipping: Clipping = "flat"
    method: Method = "head"
    top_layers: int | None = None
    lora_rank: int = 8
    lora_alpha: float | None = None
    train_embeddings: bool = False
    pooling: Pooling = "mean"
    pooling_layers: int | None = None
    head_init: HeadInit = "auto"
    learning_rate: float = 2e-3
    head_learning_rate: float | None = 0.05
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    max_tokens: int | None = None
    dropout: float | None = 0.0
    grad_sample_mode: GradSampleMode = "auto"
    feature_cache: Switch = "auto"
    feature_cache_gib: float = 4.0
    cache_dir: str | Path | None = None
    precision: Precision = "auto"
    device: str | None = None
    seed: int | None = None
    secure_mode: bool = False
    checkpoint_every: int = 25
    progress: bool = True

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_numbers()
        self._check_privacy()
        if self.secure_mode and self.seed is not None:
            raise InvalidParameterError(
                f"seed={self.seed} contradicts secure_mode=True, whose noise nobody can repeat; leave one of them out"
            )
        if self.train_embeddings and (self.method != "full" or self.top_layers is not None):
            raise InvalidParameterError(
                f'train_embeddings=True needs method="full" and top_layers=None, not method={self.method!r} and'
                f" top_layers={self.top_layers!r}; leave it out to keep the embeddings frozen"
            )

    def _check_choices(self) -> None:
        """Refuse a word that is not among a setting's words."""
        choices = {
            "accountant": Accountant, "clipping": Clipping, "method": Method, "pooling": Pooling,
            "grad_sample_mode": GradSampleMode, "feature_cache": Switch, "precision": Precision,
            "schedule": Schedule, "head_init": HeadInit,
        }  # fmt: skip
        for name, kind in choices.items():
            if getattr(self, name) not in get_args(kind):
                allowed = ", ".join(f'"{word}"' for word in get_args(kind))
                raise InvalidParameterError(f"{name}={getattr(self, name)!r} must be one of {allowed}")

    def _check_numbers(self) -> None:
        """Refuse a number outside a setting's range."""
        for name in ("epochs", "batch_size", "lora_rank", "checkpoint_every"):
            _require_count(name, getattr(self, name))
        for name in ("top_layers", "max_tokens", "pooling_layers", "physical_batch_size"):
            if getattr(self, name) is not None:
                _require_count(name, getattr(self, name))
        for name in ("max_grad_norm", "learning_rate", "head_learning_rate", "lora_alpha", "feature_cache_gib"):
            value = getattr(self, name)
            if value is not None and not 0.0 < as_real(name, value) < math.inf:
                raise InvalidParameterError(f"{name}={value!r} must be positive and finite")
        if not 0.0 <= as_real("weight_decay", self.weight_decay) < math.inf:
            raise InvalidParameterError(f"weight_decay={self.weight_decay!r} must be in [0, inf)")
        if self.dropout is not None and not 0.0 <= as_real("dropout", self.dropout) < 1.0:
            raise InvalidParameterError(f"dropout={self.dropout!r} must be in [0, 1), or None to keep the model's own")
        if self.seed is not None and (isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0):
            raise InvalidParameterError(f"seed={self.seed!r} must be an integer >= 0, or None for unpredictable noise")

    def _check_privacy(self) -> None:
        """Refuse a budget that cannot be one."""
        if self.target_epsilon is None and self.noise_multiplier is None:
            raise InvalidParameterError("target_epsilon is missing; give it, or noise_multiplier instead")
        if self.target_epsilon is not None:
            epsilon = as_epsilon(self.target_epsilon, name="target_epsilon")
            if not 0.0 < epsilon < math.inf:
                raise InvalidParameterError(f"target_epsilon={epsilon!r} must be positive and finite")
        if self.noise_multiplier is not None and as_noise_multiplier(self.noise_multiplier) == 0.0:
            raise InvalidParameterError("noise_multiplier=0 is no privacy; give a positive one")
        if self.target_delta is not None and not 0.0 < as_delta(self.target_delta, name="target_delta") < 1.0:
            raise InvalidParameterError(f"target_delta={self.target_delta!r} must be in (0, 1), below 1 / examples")

    def as_dict(self) -> dict[str, Any]:
        """Return the settings by name, all of them plain values."""
        values = dataclasses.asdict(self)
        return values | {"cache_dir": None if self.cache_dir is None else str(self.cache_dir)}

    def compared(self) -> dict[str, Any]:
        """Return the settings that must agree when a run is resumed."""
        return {name: value for name, value in self.as_dict().items() if name not in NOT_COMPARED}


def make_settings(**values: Any) -> FinetuneSettings:
    """Return settings, refusing unknown names.

    Raises:
      InvalidParameterError: there is no such setting, or a value is outside its range.
    """
    known = {field.name for field in dataclasses.fields(FinetuneSettings)}
    for name in values:
        if name not in known:
            raise InvalidParameterError(f"{name}={values[name]!r} is no setting; there are {', '.join(sorted(known))}")
    return FinetuneSettings(**values)


def _require_count(name: str, value: Any) -> None:
    """Refuse what is not an integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidParameterError(f"{name}={value!r} must be an integer >= 1")
