"""What a `config.json` says of a model: its sizes, its rotary settings, its settings for each
layer.

Public: `sizes`, `rotary`, `stacking.stacked_config`. It takes configs as dictionaries and imports
`tensors` for the names of layers.
"""
