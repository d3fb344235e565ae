"""`opacus-edgeworth finetune`: a model and a folder of texts become a privately tuned model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from opacus_edgeworth.finetune import FinetuneResult

PRIVACY, DATA, TRAINING, MODEL, RUNNING = "Privacy", "Data", "Training", "Model", "Running"


def _option(panel: str, text: str, *names: str, metavar: str | None = None) -> typer.models.OptionInfo:
    """Return an option of one group in the help."""
    return typer.Option(*names, help=text, rich_help_panel=panel, metavar=metavar)


def finetune_command(
    model: Annotated[str, typer.Argument(help="Folder of a transformers model, or its hub name.")],
    data: Annotated[
        str,
        typer.Argument(
            help="Training data: a CSV, TSV, JSONL or Parquet file; a folder with train and dev files (such as GLUE's);"
            " or a name known to the datasets library, NAME or NAME:CONFIGURATION."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the model and its privacy statement.")],
    epsilon: Annotated[float | None, _option(PRIVACY, "Privacy budget ε: the least noise that meets it.")] = None,
    delta: Annotated[
        float | None, _option(PRIVACY, "δ, below 1 / training examples; by default the largest power of ten below.")
    ] = None,
    noise_multiplier: Annotated[
        float | None, _option(PRIVACY, "Noise over clipping norm, instead of the calibrated one.")
    ] = None,
    accountant: Annotated[
        Literal["edgeworth", "prv", "rdp"],
        _option(PRIVACY, "Who calibrates the noise: prv and rdp are there to compare; ε is always certified."),
    ] = "edgeworth",
    max_grad_norm: Annotated[float, _option(PRIVACY, "Clipping norm of one example's gradient.")] = 0.5,
    clipping: Annotated[
        Literal["flat", "per_layer"], _option(PRIVACY, "One norm for the whole gradient, or one for each tensor.")
    ] = "flat",
    secure_mode: Annotated[bool, _option(PRIVACY, "Cryptographic noise (needs torchcsprng).")] = False,
    validation: Annotated[str | None, _option(DATA, "File with held-out examples.")] = None,
    test: Annotated[str | None, _option(DATA, "File with examples for the final test.")] = None,
    validation_fraction: Annotated[
        float, _option(DATA, "Part of the training data to hold out, if there is no validation.")
    ] = 0.0,
    text_column: Annotated[str | None, _option(DATA, "Column of the (first) text; found if left out.")] = None,
    text_pair_column: Annotated[str | None, _option(DATA, "Column of the second text.")] = None,
    label_column: Annotated[str | None, _option(DATA, "Column of the label.")] = None,
    label_names: Annotated[
        str | None, _option(DATA, "Names of the classes in the order of their numbers, separated by commas.")
    ] = None,
    max_tokens: Annotated[int | None, _option(DATA, "Longer texts are cut off there.")] = None,
    method: Annotated[
        Literal["full", "lora", "bitfit", "head"],
        _option(MODEL, "What changes: everything, LoRA, the biases, or the head alone."),
    ] = "head",
    top_layers: Annotated[int | None, _option(MODEL, "How many layers, from the top, may change.")] = None,
    lora_rank: Annotated[int, _option(MODEL, "Rank of LoRA's updates.")] = 8,
    pooling: Annotated[
        Literal["model", "mean"],
        _option(MODEL, "A new linear head on mean token states, or the model's own, if it has learnt one."),
    ] = "mean",
    pooling_layers: Annotated[
        int | None, _option(MODEL, "How many of the last layers that head sees; six, or all if fewer, by default.")
    ] = None,
    dropout: Annotated[float | None, _option(MODEL, "Probability in every dropout layer.")] = 0.0,
    epochs: Annotated[int, _option(TRAINING, "Passes over the data.")] = 10,
    batch_size: Annotated[int, _option(TRAINING, "Expected batch size; memory does not depend on it.")] = 1024,
    physical_batch_size: Annotated[
        int | None, _option(TRAINING, "Examples held in memory at once; 64, or 1024 of which only the head is left.")
    ] = None,
    learning_rate: Annotated[float, _option(TRAINING, "Of all but the head.")] = 2e-3,
    head_learning_rate: Annotated[float, _option(TRAINING, "Of the head.")] = 0.05,
    weight_decay: Annotated[float, _option(TRAINING, "Of AdamW.")] = 0.0,
    schedule: Annotated[
        Literal["constant", "linear"], _option(TRAINING, "Of the learning rates: linear is a decay to 0.")
    ] = "constant",
    grad_sample_mode: Annotated[
        Literal["auto", "hooks", "ghost"], _option(RUNNING, "ghost takes less memory for many parameters.")
    ] = "auto",
    feature_cache: Annotated[
        Literal["auto", "on", "off"], _option(RUNNING, "Keep the outputs of frozen layers; auto: if exact.")
    ] = "auto",
    cache_dir: Annotated[Path | None, _option(RUNNING, "Keep them in this folder for later runs.")] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], _option(RUNNING, "bf16 needs CUDA; auto: if it is there.")
    ] = "auto",
    device: Annotated[str | None, _option(RUNNING, "A torch device; CUDA where available.")] = None,
    seed: Annotated[
        int | None,
        _option(RUNNING, "For repeatable demonstrations. It tells the noise: never for private data."),
    ] = None,
    resume: Annotated[bool, _option(RUNNING, "Go on with the run that was stopped in the output folder.")] = False,
    checkpoint_every: Annotated[int, _option(RUNNING, "Steps between checkpoints.")] = 25,
    quiet: Annotated[bool, _option(RUNNING, "No progress bar.", "--quiet")] = False,
) -> None:
    """Fine-tune a language model for text classification under a privacy budget.

    The budget (ε, δ) covers each row of the training data: the least noise that is proved to meet it is used, and the
    run never takes a step beyond it. The output folder receives the model or its LoRA adapter, PRIVACY.md and
    privacy.json (what is promised, under which assumptions), the metrics and the training log.

    [bold]Example[/]: opacus-edgeworth finetune models/minilm data/SST-2 --epsilon 8 --output tuned
    """
    from opacus_edgeworth.finetune import finetune, load_data  # takes seconds, which --help must not

    task = load_data(
        data,
        validation=validation,
        test=test,
        text_column=text_column,
        text_pair_column=text_pair_column,
        label_column=label_column,
        label_names=None if label_names is None else [name.strip() for name in label_names.split(",")],
        validation_fraction=validation_fraction,
    )
    result = finetune(
        model, task, target_epsilon=epsilon, target_delta=delta, noise_multiplier=noise_multiplier,
        accountant=accountant, max_grad_norm=max_grad_norm, clipping=clipping, secure_mode=secure_mode,
        max_tokens=max_tokens, method=method, top_layers=top_layers, lora_rank=lora_rank, pooling=pooling,
        pooling_layers=pooling_layers, dropout=dropout, epochs=epochs, batch_size=batch_size,
        physical_batch_size=physical_batch_size, learning_rate=learning_rate, head_learning_rate=head_learning_rate,
        weight_decay=weight_decay, schedule=schedule, grad_sample_mode=grad_sample_mode, feature_cache=feature_cache,
        cache_dir=cache_dir, precision=precision, device=device, seed=seed, output=output, resume=resume,
        checkpoint_every=checkpoint_every, progress=not quiet,
    )  # fmt: skip
    show(result, Console())


def show(result: FinetuneResult, console: Console) -> None:
    """Print what came of a run."""
    table = Table(title=f"ε = {result.epsilon.upper:.6g} at δ = {result.delta:g} (proved)", show_header=False)
    table.add_row("noise multiplier", f"{result.noise_multiplier:.6g}")
    table.add_row("steps, sample rate", f"{result.steps}, {result.sample_rate:.4g}")
    for name, scores in result.metrics.items():
        table.add_row(f"accuracy, {escape(name)}", f"{scores['accuracy']:.2%} of {scores['examples']:.0f}")
    for name, seconds in result.seconds.items():
        table.add_row(f"time, {name}", f"{seconds:.1f} s")
    console.print(table)
    for note in result.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    if result.folder is not None:
        console.print(f"written: {result.folder} (PRIVACY.md says what is promised)", markup=False, highlight=False)
