"""How the record of a step is cached: under a key of contents, and read as data.

Public: `content_task.content_task`. No other room of `tasks` knows Prefect. It imports
rooms of the library for files.
"""
