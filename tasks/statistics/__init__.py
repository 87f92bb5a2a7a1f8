"""The statistics of the gate: may a candidate replace a baseline, judged on the same documents?

Arrays in, plain values out: `judge(tasks, rule)` and, before the merge, `plan(tasks, rule)`. This
room knows numpy and scipy, and nothing of suites, reports or servers.
Public: the names below.
"""

from tasks.statistics.judge import judge
from tasks.statistics.measurements import TaskMeasurement
from tasks.statistics.plan import plan
from tasks.statistics.results import GateResult
from tasks.statistics.rule import GateRule

__all__ = ["GateResult", "GateRule", "TaskMeasurement", "judge", "plan"]
