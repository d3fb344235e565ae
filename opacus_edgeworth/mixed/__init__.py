"""Compositions of mechanisms of any kind, as proved bounds: what `inversion` does for DP-SGD alone."""
