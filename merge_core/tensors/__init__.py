"""One tensor at a time: its name and kind, its dtype, its header, and reading it block by block.

Public: `dtypes`, `names`, `filters`, `kinds`, `safetensors_header`, `block_reader`, `inputs`. A
checkpoint, which has many tensors, is the business of `checkpoints`. It imports `files` and
`runtime`.
"""
