"""The benchmark against every public accountant: `make bench`, or `PYTHONPATH=benchmarks python -m bench --help`."""
