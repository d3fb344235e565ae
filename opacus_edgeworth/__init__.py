"""Certified privacy accounting for DP-SGD, as an Opacus accountant."""
