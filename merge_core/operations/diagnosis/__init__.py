"""What the weights alone say of a merge before there is one: lengths, conflicts, ranks, a sample.

Public: `weights.diagnose_weights`, `weights.WeightDiagnosis`, `weights.diagnosis_key`.
"""
