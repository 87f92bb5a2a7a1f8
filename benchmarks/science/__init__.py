"""What merging does at this size: published claims, tried on models that are trained for it.

`python -m benchmarks.science --out docs/science.md` trains, merges, evaluates and writes the page.
"""
