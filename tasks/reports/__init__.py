"""Reports for people: the decision, the compatibility of checkpoints, the profile, as Markdown.

Public: `decision`, `verify`, `profile_plot`. It imports `promotion` and `evaluation`.
"""
