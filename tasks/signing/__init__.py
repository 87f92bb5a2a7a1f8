"""Signatures on a merge: keys, the one over its files, the one over how it was made.

Public: `keys`, `trust.Trust`, `envelope.Envelope`, `statement.statement_of`, `model_signature`. It
reads and writes no registry; `audit` collects what is signed, and checks it. Decision 0024.
"""
