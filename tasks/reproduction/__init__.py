"""Making a registered merge again from its record, and comparing it byte by byte.

Public: `reproduce.reproduce`, `report.Reproduction`. It imports `audit`, `sources` and `registry`.
"""
