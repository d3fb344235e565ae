"""Private fine-tuning of language models, from texts to a privacy statement (`pip install opacus_edgeworth[finetune]`).

Example:
    from opacus_edgeworth.finetune import finetune

    result = finetune("path/to/model", "path/to/data", target_epsilon=8, output="tuned")
    print(result.epsilon, result.metrics)
"""

from opacus_edgeworth.extras import require_extra

require_extra("finetune", "transformers", "peft", "safetensors", "tqdm")

from opacus_edgeworth.finetune.data import Examples, TaskData  # noqa: E402 - only once their packages are known there
from opacus_edgeworth.finetune.result import FinetuneResult, TextClassifier, load_classifier  # noqa: E402
from opacus_edgeworth.finetune.run import finetune  # noqa: E402
from opacus_edgeworth.finetune.settings import FinetuneSettings  # noqa: E402
from opacus_edgeworth.finetune.sources import load_data  # noqa: E402

__all__ = [
    "Examples",
    "FinetuneResult",
    "FinetuneSettings",
    "TaskData",
    "TextClassifier",
    "finetune",
    "load_classifier",
    "load_data",
]
