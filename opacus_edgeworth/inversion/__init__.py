"""Engines that turn a composition into bounds on delta."""
