"""What a user writes for a flow: a pipeline, an averaging configuration, the form of a merge.

Public: `pipeline.load_pipeline`, `averaging`, `merge_form`. It imports `tasks`; it runs nothing.
"""
