"""Whether a registered version still is what its record says: bytes, description, run, scores,
decision, sources, alias.

Public: `audit.audit_version`, `audit.audit_all`, `report.AuditReport`. A file for each check. It
imports `lineage`, `registry` and `promotion`.
"""
