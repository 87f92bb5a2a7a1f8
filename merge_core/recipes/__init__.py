"""The language: what a recipe may say, and what it means.

Public: `loading.load_recipe`, `loading.parse_recipe`, `recipe.Recipe`, `warnings.warnings_of`,
`measurements.measurements`. A recipe is checked against its merge method here, without any
checkpoint. It imports `methods`, `tensors` and `files`.
"""
