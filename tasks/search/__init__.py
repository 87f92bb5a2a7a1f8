"""A search for the best merge: the space, the trials in Optuna, the races between candidates.

Public: `space.Space`, `sampling.Study`, `race.Race`, `selection.best`, `trial.Trial`. It imports
`promotion`, `statistics`, `reports`, `registry` and the recipe language.
"""
