"""A search for the best merge: the space or the soup, the trials in Optuna, the races between
candidates.

Public: `space.Space`, `sampling.Study`, `soup.GreedySoup`, `race.Race`, `selection.best`,
`trial.Trial`. It imports `promotion`, `statistics`, `reports`, `registry` and the recipe language.
"""
