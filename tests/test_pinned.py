"""Every stage of the numerical core gives what `data/pins.json` has; see `pins`."""

import json

import pins
import pytest
import scipy

pytestmark = pytest.mark.skipif(
    tuple(map(int, scipy.__version__.split(".")[:2])) < (1, 16),
    reason="before SciPy 1.16 far tails are rounded otherwise, and what the sums of them are is written down, too",
)
pins.load_probes()
KEPT = json.loads(pins.DATA.read_text())


def test_nothing_is_kept_that_is_not_asked():
    assert set(KEPT) == {f"{name}-{mode}" for name, probe in pins.PROBES.items() for mode in probe.modes}


@pytest.mark.parametrize(
    ("name", "mode"), [(name, mode) for name, probe in pins.PROBES.items() for mode in probe.modes]
)
def test_stage(name, mode):
    got, kept = pins.observed(name, mode), KEPT[f"{name}-{mode}"]
    if not pins.PROBES[name].traced:  # of those, not all is kept
        assert list(got) == list(kept)
    assert not [
        (key, got.get(key), kept[key])
        for key in kept
        if key not in got or not pins.same(got[key], kept[key], pins.tolerance(name, key))
    ]
