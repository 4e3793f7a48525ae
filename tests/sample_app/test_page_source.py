"""The page as the server sends it: self-contained, and fenced in by its headers."""

import re


def test_page_is_html_that_names_no_other_host(chat) -> None:
    """The page needs nothing from anywhere else; the one URL in it is a namespace."""
    response = chat.http.get("/")

    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert set(re.findall(r"https?://[\w.]+", response.text)) == {"http://www.w3.org"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", response.text)


def test_policy_allows_only_the_page_itself(chat) -> None:
    """Scripts and styles are allowed by their hash alone, connections to this server alone."""
    policy = chat.http.get("/").headers["Content-Security-Policy"]

    sources = dict(directive.split(" ", 1) for directive in policy.split("; "))
    assert sources["default-src"] == "'none'"
    assert sources["connect-src"] == "'self'"
    for kind in ("script-src", "style-src"):
        assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", sources[kind])
