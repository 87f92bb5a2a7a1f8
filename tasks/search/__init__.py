"""A search for the best merge: the space or the soup, the trials in Optuna, the races between
candidates.

Public: `space.Space`, `sampling.Study`, `soup.GreedySoup`, `race.Race`, `selection.best`,
`trial.Trial`, `postgresql.read_search_database`. It imports `promotion`, `statistics`, `reports`,
`registry`, `servers` and the recipe language.
"""
