"""Headers that tell browsers what our pages never do, so that they refuse it.

The content security policy itself stands in the settings; pages that need more than it allows
(the two of the API's documentation) say so where they are made, in `fedserver/docs.py`.
"""

from collections.abc import Awaitable
from typing import Any

from csp.middleware import CSPMiddleware
from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase

# What a page of ours asks a device for: nothing. A photo comes through a file field.
NOT_USED = (
    "accelerometer",
    "autoplay",
    "browsing-topics",
    "camera",
    "display-capture",
    "encrypted-media",
    "geolocation",
    "gyroscope",
    "magnetometer",
    "microphone",
    "midi",
    "payment",
    "picture-in-picture",
    "publickey-credentials-get",
    "screen-wake-lock",
    "usb",
    "xr-spatial-tracking",
)
PERMISSIONS = ", ".join(f"{name}=()" for name in NOT_USED)
API = "/api/v"  # programs' addresses: documents that no browser draws


class Headers(CSPMiddleware):
    """The content security policy, and the list of what no page may use."""

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        # Nothing here waits for anything: a thread for each of two calls would cost more than they.
        self.process_request(request)
        answer: Awaitable[Any] = self.get_response(request)  # type: ignore[assignment]
        return self.process_response(request, await answer)

    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        if request.path_info.startswith(API):
            return response
        response.headers.setdefault("Permissions-Policy", PERMISSIONS)
        for cookie in response.cookies.values():
            cookie["path"] = settings.SESSION_COOKIE_PATH  # Django's own messages say none
        return super().process_response(request, response)
