"""A child process, `python -m tests.support.said_environment`, that tells its environment."""

from __future__ import annotations

import os

from tasks.processes.child import take_job

if __name__ == "__main__":
    _, send = take_job()
    send({"environment": dict(os.environ)})
