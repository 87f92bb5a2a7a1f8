"""A diagnosis of a recipe: what its numbers advise, a search to start from, all of it as a page.

Public: `curves.Curves`, `points.points_of`, `advice.advise`, `start.starting_search`,
`diagnosis.Diagnosis`, `page.diagnosis_html`, `summary.diagnosis_markdown`. It imports `evaluation`,
`promotion`, `statistics`, `reports` and the library.
"""
