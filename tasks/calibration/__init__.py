"""Models measured on data, for the merge methods that need it.

Public: `measure.calibrate`, `measure.calibration_key`. `process` runs in a child process. It
imports `processes`.
"""
