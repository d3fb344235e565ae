"""Loads the accountants into the server that the measuring processes are forked from."""

import contextlib
import importlib
import os
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for _module in filter(None, os.environ.get("BENCH_PRELOAD", "").split(",")):
        with contextlib.suppress(ImportError):  # a broken peer fails where it is used, with its message
            importlib.import_module(_module)
