"""What a person sees at a terminal: progress, tables, one clear error.

Public: `console.Terminal`, `console.explain`. It imports the library and the records of `tasks`.
"""
