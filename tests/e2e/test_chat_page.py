"""The chat page in headless Chromium: people who talk, type HTML, lose the server and use the keyboard."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

pytestmark = [pytest.mark.browser, pytest.mark.e2e]

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
PHONE = {"width": 390, "height": 780}


class Server:
    """The chat in a process of its own, on a port that stays the same when it is started again."""

    def __init__(self, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self._log = log.open("wb")
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "uvicorn", "sample_app:app", "--port", str(self.port)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=self._log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                assert time.monotonic() < deadline, f"the server does not listen, see {self._log.name}"
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """End it and wait until it is gone."""
        self.process.terminate()
        self.process.wait(timeout=20)

    def close(self) -> None:
        """End it for good."""
        self.stop()
        self._log.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A chat that nobody has used yet."""
    running = Server(tmp_path / "server.log")
    yield running
    running.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One headless browser; without one, these tests fail rather than pass unseen."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.fail(f"none of {', '.join(BROWSERS)} is on PATH: install one, or deselect with -m 'not browser'")
    # Chromium waits for a session bus that the variable names, even where there is none.
    environment = {name: value for name, value in os.environ.items() if name != "DBUS_SESSION_BUS_ADDRESS"}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS, env=environment)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Browser, server: Server) -> Iterator[Callable[..., Page]]:
    """A way to open the page as somebody new, with a storage of their own; no page may report an error of its own."""
    contexts = []
    errors: list[str] = []

    def open_page(username: str = "", path: str = "", **options: object) -> Page:
        context = chromium.new_context(locale="en-GB", **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if "Content Security" in message.text else None)
        page.goto(server.url + path)
        expect(room(page, "General Chat")).to_be_visible()
        if username:
            page.get_by_label("Your name").fill(username)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def room(page: Page, name: str):
    """Return the button that enters a room."""
    return page.get_by_role("navigation").get_by_role("button", name=name)


def log(page: Page):
    """Return what has been said."""
    return page.get_by_role("log")


def enter(page: Page, name: str = "General Chat") -> None:
    """Enter a room and wait for the welcome."""
    room(page, name).click()
    expect(log(page).get_by_text(f"Welcome to {name}")).to_be_visible()


def say(page: Page, text: str) -> None:
    """Type a message and press Enter."""
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def test_two_people_talk(visit) -> None:
    """Two browsers see each other come, speak and go, and each its own messages."""
    alice, bob = visit("Alice"), visit("Bob")
    enter(alice)
    enter(bob)
    expect(log(alice).get_by_text("Bob joined the room")).to_be_visible()
    expect(alice.get_by_text("2 people here")).to_be_visible()

    say(alice, "Hello everyone!")
    expect(log(bob).get_by_text("Hello everyone!")).to_be_visible()
    say(bob, "Hi Alice!")

    expect(log(alice).get_by_role("listitem")).to_contain_text(
        ["Welcome to General Chat, Alice!", "Bob joined the room", "Hello everyone!", "Hi Alice!"]
    )
    expect(log(bob).get_by_role("listitem")).to_contain_text(["Welcome to General Chat, Bob!", "Hello", "Hi Alice!"])
    bob.get_by_role("button", name="Leave").click()
    expect(log(alice).get_by_text("Bob left the room")).to_be_visible()
    expect(alice.get_by_text("Only you are here")).to_be_visible()


def test_text_is_shown_as_text(visit) -> None:
    """HTML in messages, names and rooms is seen, not run."""
    script = "<script>document.title = 'run'</script>"
    image = "<img src=x onerror=\"document.title = 'run'\">"
    eve = visit("<b>Eve</b>")
    eve.get_by_label("New room").fill(image[:50])
    eve.get_by_role("button", name="Create").click()
    expect(log(eve).get_by_text("Welcome to <img")).to_be_visible()
    alice = visit("Alice")
    enter(alice, image[:50])

    say(eve, script)
    say(eve, image)

    expect(log(alice).get_by_text(script, exact=True)).to_be_visible()
    expect(log(alice).get_by_text(image, exact=True)).to_be_visible()
    expect(log(alice).get_by_text("<b>Eve</b>", exact=True).first).to_be_visible()
    for page in (eve, alice):
        assert page.locator("#log :is(script, img, b), #rooms :is(script, img)").count() == 0
        assert "run" not in page.title().split(" · ")[-1]


def test_room_is_created_or_the_reason_shown(visit) -> None:
    """The server's message about a name is shown at its field; a good name leads into the new room."""
    page = visit("Alice")
    field = page.get_by_label("New room")

    field.fill("ab")
    field.press("Enter")
    expect(page.get_by_role("alert").get_by_text("Room name must be at least 3 characters")).to_be_visible()
    expect(field).to_have_attribute("aria-invalid", "true")
    field.fill("Tech Talk")
    field.press("Enter")

    expect(log(page).get_by_text("Welcome to Tech Talk, Alice!")).to_be_visible()
    expect(field).to_have_attribute("aria-invalid", "false")
    expect(room(page, "Tech Talk, 1 person")).to_have_attribute("aria-current", "true")


def test_rooms_show_how_many_are_in_them(visit) -> None:
    """Somebody who has not entered yet sees the count follow who comes."""
    watcher = visit()
    enter(visit("Alice"))

    expect(room(watcher, "General Chat, 1 person")).to_be_visible(timeout=15_000)


def test_name_is_asked_for_before_a_room(visit) -> None:
    """Without a name nobody enters; the page says what is missing and puts the cursor there."""
    page = visit()

    room(page, "General Chat").click()

    expect(page.get_by_role("alert").get_by_text("Choose a name first")).to_be_visible()
    expect(page.get_by_label("Your name")).to_be_focused()


def test_error_of_the_server_is_shown(visit) -> None:
    """A message that the server refuses is followed by its reason."""
    page = visit("Alice")
    enter(page)

    say(page, "x" * 5000)

    expect(log(page).get_by_text("Message must not exceed 4096 characters")).to_be_visible()


def test_page_reconnects_by_itself(visit, server) -> None:
    """When the server goes the page says so, keeps what was written, and is back when the server is."""
    page = visit("Alice")
    enter(page)
    say(page, "before")

    server.stop()
    expect(page.get_by_text("Reconnecting")).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    page.get_by_label("Message", exact=True).fill("a draft")
    server.start()

    expect(log(page).get_by_text("Welcome to General Chat, Alice!")).to_have_count(2, timeout=30_000)
    expect(page.get_by_text("Reconnecting")).to_be_hidden()
    expect(page.get_by_label("Message", exact=True)).to_have_value("a draft")
    expect(log(page).get_by_text("before")).to_be_visible()


def test_room_that_is_gone_leads_back_to_the_rooms(visit, server) -> None:
    """A room that a restarted server does not know ends the attempts, with the server's own words."""
    page = visit("Alice")
    page.get_by_label("New room").fill("Tech Talk")
    page.get_by_role("button", name="Create").click()
    expect(log(page).get_by_text("Welcome to Tech Talk, Alice!")).to_be_visible()

    server.stop()
    server.start()

    expect(page.get_by_role("alert").get_by_text("not found")).to_be_visible(timeout=30_000)
    expect(page.get_by_text("Good to see you")).to_be_visible()


def test_everything_works_by_keyboard(visit) -> None:
    """Name, room and message need no mouse, and Shift+Enter makes a line."""
    alice, bob = visit(), visit("Bob")
    enter(bob)

    expect(alice.get_by_label("Your name")).to_be_focused()
    alice.keyboard.type("Alice")
    alice.keyboard.press("Tab")
    expect(room(alice, "General Chat")).to_be_focused()
    alice.keyboard.press("Enter")
    expect(log(alice).get_by_text("Welcome to General Chat, Alice!")).to_be_visible()
    expect(alice.get_by_label("Message", exact=True)).to_be_focused()
    alice.keyboard.type("one")
    alice.keyboard.press("Shift+Enter")
    alice.keyboard.type("two")
    alice.keyboard.press("Enter")

    expect(log(bob).get_by_text("one\ntwo")).to_be_visible()
    assert log(bob).locator(".text").last.inner_text() == "one\ntwo"


def test_reload_leads_back_into_the_room(visit) -> None:
    """Name and room survive a reload, and the link of a room leads into it."""
    page = visit("Alice")
    enter(page)

    page.reload()

    expect(log(page).get_by_text("Welcome to General Chat, Alice!")).to_be_visible()
    assert page.url.endswith("#general")


def test_phone_shows_one_thing_at_a_time(visit) -> None:
    """On a narrow screen the rooms give way to the conversation and come back, and nothing is cut off."""
    page = visit("Alice", viewport=PHONE)
    enter(page)
    say(page, "long" * 100)

    expect(page.get_by_label("Your name")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.get_by_role("button", name="Back to the rooms").click()
    expect(page.get_by_label("Your name")).to_be_visible()
    expect(log(page)).to_be_hidden()


@pytest.mark.parametrize(("scheme", "is_light"), [("light", True), ("dark", False)])
def test_colours_follow_the_system(visit, scheme, is_light) -> None:
    """The page is light or dark as the system asks."""
    page = visit(color_scheme=scheme)

    red = page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")

    assert (red > 128) == is_light
