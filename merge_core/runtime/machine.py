"""The name of this machine, as it may be shown and stored."""

from __future__ import annotations

import os

from merge_core.text.plain import plain


def machine_name() -> str:
    """The node's name on one line. The system lets it be any bytes; they need be no text."""
    return plain(os.uname().nodename)
