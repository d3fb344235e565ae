"""What older versions of Opacus cannot do."""

import opacus
import pytest

OPACUS_1_5 = opacus.__version__.startswith("1.5")
loads_names = pytest.mark.skipif(
    OPACUS_1_5, reason="Opacus 1.5's own accountants refuse every state that holds their name: they expect a method"
)
saves_names = pytest.mark.skipif(
    OPACUS_1_5, reason="Opacus 1.5's own accountants save a method for their name, which no file of plain values holds"
)
clips_bf16 = pytest.mark.skipif(OPACUS_1_5, reason="Opacus 1.5 clips no gradients of bf16")
