"""numba as a compiler: functions become machine code that later processes load without numba.

Public: `kernel.compiled`, `kernel.instruction`, `calling_convention`, `formats`. What is computed
is written in `reductions` and `kernels`; this room knows no merge method. It imports nothing of
the library.
"""
