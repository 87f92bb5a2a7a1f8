"""What a merge writes: the staging directory with its journal, shards, and the files beside them.

Public: `staging`, `shard_writer`, `manifest`, `model_files`, `working_directory`. It imports
`planning` and what is below, and it computes no tensor.
"""
