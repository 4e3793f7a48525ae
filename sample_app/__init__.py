"""A small real-time chat: rooms over REST, conversation over WebSockets, a page for people.

Serve it with ``uvicorn sample_app:app`` or ``python -m sample_app``. All state is in memory, so run one process.
"""

from sample_app.api import app

__all__ = ["app"]
