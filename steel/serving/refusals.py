"""What those are answered whose requests are refused."""

from collections.abc import Mapping

from starlette.responses import JSONResponse

from steel.serving.limits import BUSY


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """One line of JSON, and when to try again, if that may help; the connection is closed behind it."""
    retry = {"Retry-After": "1"} if status == BUSY else {}
    return JSONResponse({"error": message}, status, {**(headers or {}), **retry, "Connection": "close"})
