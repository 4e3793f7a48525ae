"""The hot paths in C, where they could be compiled and nobody has asked for Python: what `native` is, or None.

They record the same and deliver the same bytes. ``FLOWTRACE_PURE_PYTHON=1`` leaves them out.
"""

from __future__ import annotations

import os

from flowtrace.typed import Any

native: Any = None
if not os.environ.get("FLOWTRACE_PURE_PYTHON"):
    try:
        from flowtrace import _native

        native = _native
    except ImportError:  # no compiler was there
        pass
