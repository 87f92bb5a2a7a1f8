"""Inputs on disk: a checkpoint directory, its files, and an adapter beside it.

Public: `checkpoint.open_checkpoint`, `sources.describe_source`, `adapters.open_adapter`. A
directory is opened and checked here, and nothing is merged. It imports `tensors` and `files`;
what a recipe says is unknown here.
"""
