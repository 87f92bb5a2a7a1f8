"""Models with different vocabularies in one merge: whose tokens the result has, at which ids.

Rows of embeddings are found for each token in each model, and rearranged while they stream. Public:
`tokenizer` and `comparison`; `alignment` for plans; `merged` and `files` for what is written.
"""
