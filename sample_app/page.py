"""The page for people, and the headers that keep it to itself."""

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")


def _hash_source(element: str) -> str:
    """Return the Content-Security-Policy source that allows the page's one inline element of this name."""
    content = re.search(f"<{element}>(.*?)</{element}>", PAGE, re.DOTALL)
    if content is None:
        raise ValueError(f"page.html has no <{element}> element")
    return f"'sha256-{b64encode(sha256(content[1].encode()).digest()).decode()}'"


PAGE_HEADERS = {
    # Only this script and this style, only this server: text that got into the page as HTML could still do nothing.
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash_source('script')}",
            f"style-src {_hash_source('style')}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
