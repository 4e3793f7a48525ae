"""The conversation: WebSocket connections from the first frame to the last, and who hears what.

Sending never waits. A message is appended to the bounded queue of each receiver, and one writer task per client puts
it on the wire, so nobody is delayed by somebody else's network. Everything between two awaits is one step for the
event loop, which is what keeps the order of messages without a lock.
"""

import asyncio
import contextlib
from itertools import count

from starlette.websockets import WebSocket, WebSocketDisconnect

from sample_app.clients import ConnectedClient, MessageRate
from sample_app.models import ChatMessage, ChatRoom
from sample_app.rooms import ChatRoomManager
from sample_app.settings import Settings

# What using a WebSocket raises once the peer is gone. RuntimeError: the server has already closed it, for example
# because a ping went unanswered.
CONNECTION_LOST = (WebSocketDisconnect, OSError, RuntimeError)


class AdmissionRefused(Exception):
    """Somebody may not enter: why, for people, and the code (RFC 6455, section 7.4) and reason of the close frame."""

    def __init__(self, problem: str, close_code: int, close_reason: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.close_code = close_code
        self.close_reason = close_reason


class ChatService:
    """All connected clients and what they say to each other."""

    def __init__(self, rooms: ChatRoomManager, settings: Settings) -> None:
        self._rooms = rooms
        self._settings = settings
        self._clients: dict[str, ConnectedClient] = {}
        self._client_ids: dict[str, set[str]] = {}  # by room; an empty room has no entry
        self._numbers = count(1)

    async def handle_websocket_connection(self, websocket: WebSocket, room_id: str, username: str) -> None:
        """Serve one client from the handshake until it has left its room, however that happens."""
        await websocket.accept()
        try:
            room = self.admit(room_id, username)
        except AdmissionRefused as refusal:
            await self.refuse(websocket, room_id, refusal)
            return
        client = self.add_client(websocket, room_id, username)
        receiving = asyncio.create_task(self.receive_messages(websocket, client))
        try:
            self.send_message_to_client(client.id, ChatMessage.welcome(room, username).to_frame())
            self.broadcast_to_room(room_id, ChatMessage.joined(room_id, username), exclude_client_id=client.id)
            await asyncio.wait({receiving, client.writing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.remove_client(client)
            self.broadcast_to_room(room_id, ChatMessage.left(room_id, username))
            receiving.cancel()
            client.writing.cancel()
            await asyncio.wait({receiving, client.writing})
        if client.too_slow:
            await self.close(websocket, 1013, "Too many messages were waiting")
        for task in (receiving, client.writing):
            if not task.cancelled():
                task.result()  # raises what nobody expected, so that the server logs it

    def admit(self, room_id: str, username: str) -> ChatRoom:
        """Return the room that this user may enter.

        Raises:
            AdmissionRefused: There is no such room, the name will not do, or the room is full.
        """
        room = self._rooms.get_room(room_id)
        if room is None:
            raise AdmissionRefused(f"Room '{room_id}' not found", 1000, "Room not found")
        longest = self._settings.max_username_length
        if not (username.strip() and username.isprintable() and len(username) <= longest):
            raise AdmissionRefused(f"Username must be 1 to {longest} printable characters", 1008, "Invalid username")
        if room.active_users >= self._settings.max_clients_per_room:
            raise AdmissionRefused(f"Room '{room_id}' is full", 1013, "Room is full")
        return room

    async def refuse(self, websocket: WebSocket, room_id: str, refusal: AdmissionRefused) -> None:
        """Tell somebody who may not enter why, and close."""
        with contextlib.suppress(*CONNECTION_LOST):
            await websocket.send_text(ChatMessage.error(room_id, refusal.problem).to_frame())
        await self.close(websocket, refusal.close_code, refusal.close_reason)

    def add_client(self, websocket: WebSocket, room_id: str, username: str) -> ConnectedClient:
        """Register and count a client, and start its writer."""
        outgoing: asyncio.Queue[str] = asyncio.Queue(self._settings.max_queued_messages)
        client = ConnectedClient(
            id=f"client-{next(self._numbers)}",
            room_id=room_id,
            username=username,
            rate=MessageRate(self._settings.max_messages_per_second),
            outgoing=outgoing,
            writing=asyncio.create_task(self.write_messages(websocket, outgoing)),
        )
        self._clients[client.id] = client
        self._client_ids.setdefault(room_id, set()).add(client.id)
        self._rooms.increment_user_count(room_id)
        return client

    def remove_client(self, client: ConnectedClient) -> None:
        """Forget a client and count it down."""
        del self._clients[client.id]
        self._client_ids[client.room_id].remove(client.id)
        if not self._client_ids[client.room_id]:
            del self._client_ids[client.room_id]
        self._rooms.decrement_user_count(client.room_id)

    async def receive_messages(self, websocket: WebSocket, client: ConnectedClient) -> None:
        """Pass on what a client says, until it is gone."""
        while True:
            # One read may bring thousands of messages: let the writers empty the queues in between.
            await asyncio.sleep(0)
            try:
                event = await websocket.receive()
            except CONNECTION_LOST:
                return
            if event["type"] == "websocket.disconnect":
                return
            text = event.get("text")  # None where the frame was binary
            if text is not None and not text.strip():
                continue
            if problem := self.find_problem(client, text):
                self.send_message_to_client(client.id, ChatMessage.error(client.room_id, problem).to_frame())
                continue
            said = ChatMessage.said(client.room_id, client.username, event["text"])
            self.broadcast_to_room(client.room_id, said, exclude_client_id=client.id)

    def find_problem(self, client: ConnectedClient, text: str | None) -> str | None:
        """Return why a text, or a binary frame (None), is not passed on, or None if it is."""
        if not client.rate.allows_one_more():
            return f"Too many messages: at most {self._settings.max_messages_per_second} per second"
        if text is None:
            return "Binary messages are not supported: send text"
        if len(text) > self._settings.max_message_length:
            return f"Message must not exceed {self._settings.max_message_length} characters"
        return None

    def broadcast_to_room(self, room_id: str, message: ChatMessage, exclude_client_id: str | None = None) -> None:
        """Send a message to everyone in a room but one; it is turned into JSON once for all of them."""
        frame = message.to_frame()
        for client_id in self._client_ids.get(room_id, ()):
            if client_id != exclude_client_id:
                self.send_message_to_client(client_id, frame)

    def send_message_to_client(self, client_id: str, message: str) -> None:
        """Queue one JSON frame for a client; one whose queue is full is made to leave."""
        client = self._clients[client_id]
        try:
            client.outgoing.put_nowait(message)
        except asyncio.QueueFull:
            client.too_slow = True
            client.writing.cancel()

    async def write_messages(self, websocket: WebSocket, outgoing: asyncio.Queue[str]) -> None:
        """Put what is queued for a client on the wire, until it is gone."""
        with contextlib.suppress(*CONNECTION_LOST):
            while True:
                await websocket.send_text(await outgoing.get())

    async def close(self, websocket: WebSocket, code: int, reason: str) -> None:
        """Close a connection, as far as its peer still takes part."""
        with contextlib.suppress(TimeoutError, *CONNECTION_LOST):
            async with asyncio.timeout(self._settings.close_timeout_s):
                await websocket.close(code, reason)
