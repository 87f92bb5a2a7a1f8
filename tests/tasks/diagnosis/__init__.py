"""A diagnosis: its curves, its advice, the search that it begins, its page and playground."""
