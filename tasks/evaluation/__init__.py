"""A checkpoint judged by a suite of lm-eval tasks, in a child process that can be killed.

Public: `evaluate.evaluate_checkpoint`, `suite.load_suite`, `suite.Suite`. `process` is what the
child runs. It imports `processes`, `records` and `hub_answers`.
"""
