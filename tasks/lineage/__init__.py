"""What a registered version was made of, to any depth; which versions contain a checkpoint; in what
two versions differ.

Public: `trace.lineage`, `text.render_lineage`, `mermaid.lineage_mermaid`, `html.lineage_html`,
`contains.versions_that_contain`, `diff.difference`. It imports `registry`.
"""
