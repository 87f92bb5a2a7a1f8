"""A model zoo trained on this machine: a tiny base, its experts, and the traps around them.

`build_zoo(directory)` trains it once from the text every Python has and finds it again after.
Public: that, and `Zoo`, its places.
"""

from flows.model_zoo.place import Zoo
from flows.model_zoo.zoo import build_zoo

__all__ = ["Zoo", "build_zoo"]
