"""How the record of a step is cached: under a key of contents, and read as data.

Public: `content_task.content_task`. The only room of `tasks` that knows Prefect, as the step files
do. It imports the library's foot.
"""
