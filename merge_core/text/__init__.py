"""Text of strangers, made harmless: for one line of a terminal or a log, and for Markdown.

Public: `plain.plain`, `plain.plain_log`, `markdown`. The foot of the library: it imports nothing
of mergeflow.
"""
