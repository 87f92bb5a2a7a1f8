"""Models with different vocabularies in one merge: whose tokens the result has, at which ids, and
where each model's row for a token comes from. Rows are rearranged while they stream.
"""
