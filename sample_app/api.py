"""The application: REST for rooms, a WebSocket for the conversation, a page for people."""

from fastapi import FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from sample_app.chat import ChatService
from sample_app.models import ChatRoom, ErrorResponse, RoomRequest
from sample_app.page import PAGE, PAGE_HEADERS
from sample_app.rooms import ChatRoomManager
from sample_app.settings import Settings

settings = Settings.from_environment()
rooms = ChatRoomManager()
chat = ChatService(rooms, settings)
app = FastAPI(title="Chat", summary="Rooms over REST, conversation over WebSockets.")


@app.get("/", include_in_schema=False)
async def show_page() -> HTMLResponse:
    """Serve the chat page."""
    return HTMLResponse(PAGE, headers=PAGE_HEADERS)


@app.get("/health")
async def check_health() -> dict[str, str]:
    """Tell that the server answers."""
    return {"status": "ok"}


@app.get("/rooms")
async def list_rooms() -> list[ChatRoom]:
    """List all rooms, sorted by name."""
    return rooms.list_rooms()


@app.get("/rooms/{room_id}", responses={404: {"model": ErrorResponse}})
async def get_room(room_id: str) -> ChatRoom:
    """Return one room."""
    room = rooms.get_room(room_id)
    if room is None:
        raise HTTPException(404, f"Room '{room_id}' not found")
    return room


@app.post("/rooms", status_code=201, responses={400: {"model": ErrorResponse}})
async def create_room(request: RoomRequest, response: Response) -> ChatRoom:
    """Create a room."""
    # No await between the two: of two simultaneous requests for one name, the second finds the first one's room.
    if errors := rooms.validate_room_name(request.name):
        raise HTTPException(400, errors[0])
    room = rooms.create_room(request.name or "")
    response.headers["Location"] = f"/rooms/{room.id}"
    return room


@app.websocket("/ws/{room_id}/{username:path}")
async def connect(websocket: WebSocket, room_id: str, username: str) -> None:
    """Join a room and talk; a path so that a name may contain a slash."""
    await chat.handle_websocket_connection(websocket, room_id, username)


@app.exception_handler(StarletteHTTPException)
async def show_error(request: Request, error: StarletteHTTPException) -> JSONResponse:
    """Answer any error in the one shape that clients know."""
    body = ErrorResponse(errors=[error.detail])
    return JSONResponse(body.model_dump(), status_code=error.status_code, headers=error.headers)


@app.exception_handler(RequestValidationError)
async def show_invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
    """Answer a body that is not even of the right type."""
    is_about_name = any("name" in problem["loc"] for problem in error.errors())
    problem = "Room name must be text" if is_about_name else "Request body must be a JSON object"
    return await show_error(request, StarletteHTTPException(400, problem))
