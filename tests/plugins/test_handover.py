"""The handover of batches to a server: in parts, again from where it broke off, or aside; more is in test_http."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtrace.config import decode
from flowtrace.errors import SinkError
from flowtrace.testing import make_batch, make_context
from flowtrace_plugins.handover import Handover
from flowtrace_plugins.options import HttpOptions
from flowtrace_plugins.parcel import Parcel
from tests.faults import chaos_server
from tests.faults.chaos_server import ChaosServer, answer, limit, reset, reset_after_commit


@pytest.fixture(scope="module")
def server() -> Iterator[ChaosServer]:
    """A server that answers 200 unless told otherwise."""
    with chaos_server.running() as running:
        yield running


def made(server: ChaosServer, directory: Path, **options: Any) -> Handover:
    """A handover to the server, which has forgotten what was before."""
    server.requests.clear()
    server.stored.clear()
    server.doubles.clear()
    handover = Handover(decode({"url": server.url} | options, HttpOptions), make_context(directory=directory))
    handover.open()
    return handover


def parcel(*seqs: int, id: str = "r-1-1") -> Parcel:
    """A batch of events with these numbers."""
    return Parcel.of(make_batch(*({"seq": seq} for seq in seqs), id=id))


def dead_letters(directory: Path) -> list[int]:
    """The numbers of the events that were set aside below a directory."""
    paths = directory.rglob("dead-letter/*.jsonl")
    return [orjson.loads(line)["seq"] for path in paths for line in path.read_bytes().splitlines()]


@settings(max_examples=60, deadline=None)
@given(
    events=st.integers(1, 9),
    most=st.integers(1, 9),
    troubles=st.lists(st.sampled_from([answer(503), answer(500), reset]), max_size=6),
)
def test_each_event_once_however_large_and_often(
    server: ChaosServer, tmp_path_factory: pytest.TempPathFactory, events: int, most: int, troubles: list[Any]
) -> None:
    """Whatever the server's limit, and wherever tries break off: each event is taken once, in order."""
    # fault S10, S11, S16
    handover = made(server, tmp_path_factory.mktemp("handover"))
    server.script, server.always = [*troubles], limit(most)
    batch = parcel(*range(events))

    tries = 0
    while True:
        tries += 1
        try:
            lost = handover.hand_over(batch)
            break
        except SinkError:
            continue
    handover.close(0.0)

    assert lost == 0
    assert tries == len(troubles) - len(server.script) + 1
    assert [event["seq"] for event in server.stored_events] == list(range(events))
    assert server.doubles == []
    assert all(len(request.lines) <= most for request in server.stored.values())


def test_another_batch_in_between(server: ChaosServer, tmp_path: Path) -> None:
    """A batch that is taken up again after another one begins anew, under the ids that its halves had."""  # fault S16
    handover = made(server, tmp_path)
    server.always = answer(200)
    server.script = [answer(413), answer(200), answer(503), answer(200), answer(413)]

    with pytest.raises(SinkError):
        handover.hand_over(parcel(1, 2))
    handover.hand_over(parcel(3, id="r-1-2"))
    handover.hand_over(parcel(1, 2))
    handover.close(0.0)

    assert [*server.stored] == ["r-1-1.0", "r-1-2", "r-1-1.1"]
    assert server.doubles == ["r-1-1.0"]


def test_what_is_refused_is_set_aside(server: ChaosServer, tmp_path: Path) -> None:
    """The part that the server refuses is kept in a file and counted; the other part is delivered."""  # fault S11
    handover = made(server, tmp_path)
    server.script, server.always = [answer(413), answer(400), reset_after_commit, answer(200)], answer(200)

    with pytest.raises(SinkError):
        handover.hand_over(parcel(1, 2))
    lost = handover.hand_over(parcel(1, 2))
    handover.close(0.0)

    assert lost == 1
    assert dead_letters(tmp_path) == [1]
    assert [event["seq"] for event in server.stored_events] == [2]


def test_nowhere_to_set_it_aside(server: ChaosServer, tmp_path: Path) -> None:
    """Where the file cannot be written, what is refused is counted all the same."""  # fault S11, P12
    (tmp_path / ".flowtrace").touch()
    handover = made(server, tmp_path)
    server.script, server.always = [answer(400)], answer(200)

    lost = handover.hand_over(parcel(1, 2))
    handover.close(0.0)

    assert lost == 2


def test_only_this_user_can_read_dead_letters(server: ChaosServer, tmp_path: Path) -> None:
    """They hold what events hold: the file is 0600, in a directory of 0700."""  # fault X3, X4
    handover = made(server, tmp_path)
    server.script, server.always = [answer(400)], answer(200)

    handover.hand_over(parcel(1))
    handover.close(0.0)

    (path,) = tmp_path.rglob("dead-letter/*.jsonl")
    assert [p.stat().st_mode & 0o777 for p in (path, path.parent)] == [0o600, 0o700]
