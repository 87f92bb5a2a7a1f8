"""A fuzzer of everything that reads a stranger's files: `make fuzz`, or `python -m tests.fuzz`."""
