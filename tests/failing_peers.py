"""Accountants that fail in every way, for the tests of `compare`: their processes import them by name."""

import os
import time


def hangs(history, delta):
    time.sleep(60.0)


def raises(history, delta):
    print("what a peer prints must not get among the results")
    raise RuntimeError("Discrete mean differs\nand more")


def dies(history, delta):
    os._exit(9)


def understates(history, delta):
    return -1.0


def is_no_number(history, delta):
    return float("nan")


def overstates(history, delta):
    return float("inf")
