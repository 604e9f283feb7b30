"""How the text kernels are compiled: no Python object, no allocation, no reference counting, the GIL released.

The kernels pass dozens of arrays around in named tuples. `_nrt=False` drops Numba's atomic reference counting of each
at every call (it made them twice as slow) and with it the right to allocate: all memory comes from Python. Inlining
drops the copying of the tuples (four times as slow). Inner functions are compiled into the entry point's one cached
file, without wrappers of their own, which halves the time of compiling; called from Python they are plain Python.
"""

from __future__ import annotations

from numba import njit
from numba.extending import register_jitable

entry = njit(cache=True, nogil=True, _nrt=False)
inner = register_jitable(_nrt=False)
inlined = register_jitable(_nrt=False, forceinline=True)
