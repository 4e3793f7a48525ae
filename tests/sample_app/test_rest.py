"""REST: listing and creating rooms, and every way to get it wrong."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

TIMESTAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


def test_rooms_are_listed_with_their_users(chat) -> None:
    """The list holds General Chat with the fields and the time format that clients know."""
    response = chat.http.get("/rooms")

    (room,) = response.json()
    assert response.status_code == 200
    assert list(room) == ["id", "name", "createdAt", "activeUsers"]
    assert (room["id"], room["name"], room["activeUsers"]) == ("general", "General Chat", 0)
    assert re.fullmatch(TIMESTAMP, room["createdAt"])


def test_created_room_is_returned_and_listed(chat) -> None:
    """A new room comes back with 201 and can be found by list and by Location."""
    response = chat.http.post("/rooms", json={"name": "Tech Talk"})

    room = response.json()
    assert response.status_code == 201
    assert re.fullmatch("[0-9a-f]{8}", room["id"])
    assert (room["name"], room["activeUsers"]) == ("Tech Talk", 0)
    assert chat.http.get(response.headers["Location"]).json() == room
    assert [each["name"] for each in chat.http.get("/rooms").json()] == ["General Chat", "Tech Talk"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "Room name is required"),
        ({"name": None}, "Room name is required"),
        ({"name": "   "}, "Room name is required"),
        ({"name": "ab"}, "Room name must be at least 3 characters"),
        ({"name": "x" * 51}, "Room name must not exceed 50 characters"),
        ({"name": "gENERAL cHAT"}, "Room name already exists"),
        ({"name": 42}, "Room name must be text"),
        ([], "Request body must be a JSON object"),
        ("Tech Talk", "Request body must be a JSON object"),
        (None, "Request body must be a JSON object"),
    ],
)
def test_invalid_name_is_answered_with_one_error(chat, body, error) -> None:
    """What is wrong with a request comes back as 400 and one message."""
    response = chat.http.post("/rooms", json=body)

    assert (response.status_code, response.json()) == (400, {"errors": [error]})
    assert len(chat.http.get("/rooms").json()) == 1


@pytest.mark.parametrize("body", [b"", b"{", b"name=Tech", b"\xff\xfe", b"[" * 100_000, b'{"name": "\\ud800abc"}'])
def test_body_that_is_no_json_is_answered_in_the_same_shape(chat, body) -> None:
    """Whatever is posted, the answer is 400 with a list of one error."""
    response = chat.http.post("/rooms", content=body, headers={"Content-Type": "application/json"})

    assert response.status_code == 400
    assert [type(error) for error in response.json()["errors"]] == [str]


def test_simultaneous_requests_make_one_room(chat) -> None:
    """Of many requests for one name at the same time, one wins and the others hear that it exists."""
    with ThreadPoolExecutor(12) as pool:
        responses = list(pool.map(lambda _: chat.http.post("/rooms", json={"name": "Tech Talk"}), range(24)))

    errors = [response.json() for response in responses if response.status_code != 201]
    assert errors == [{"errors": ["Room name already exists"]}] * 23
    assert len(chat.http.get("/rooms").json()) == 2


def test_health_is_ok(chat) -> None:
    """The health check answers."""
    assert chat.http.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/rooms/nowhere", 404), ("GET", "/no", 404), ("PUT", "/rooms", 405)]
)
def test_every_error_has_one_shape(chat, method, path, status) -> None:
    """Errors that are not about names look the same as those that are."""
    response = chat.http.request(method, path)

    assert response.status_code == status
    assert list(response.json()) == ["errors"]
