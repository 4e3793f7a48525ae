"""Serve the chat on http://localhost:5001, or where CHAT_HOST and CHAT_PORT say."""

import uvicorn

from sample_app.api import app, settings


def main() -> None:
    """Run the server until it is interrupted."""
    # The grace period ends connections whose peer stopped reading: their last bytes could otherwise never be flushed.
    uvicorn.run(app, host=settings.host, port=settings.port, timeout_graceful_shutdown=settings.close_timeout_s)


if __name__ == "__main__":
    main()
