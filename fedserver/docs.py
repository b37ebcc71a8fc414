"""The API's documentation: two pages that others wrote, under our content security policy.

Both draw themselves with styles that they make in the browser, and Redoc searches in a worker that
it makes from a blob; that much is allowed to them, and to no other page. Scripts come from our own
address, as everywhere: Swagger's settings through a second request (a "split" view), Redoc's from a
file (`docs.js`).
"""

from typing import Any

from csp.constants import SELF, UNSAFE_INLINE
from csp.decorators import csp_replace
from drf_spectacular.views import SpectacularRedocView, SpectacularSwaggerSplitView

STYLES = {"style-src": [SELF, UNSAFE_INLINE]}
WORKER = {"worker-src": [SELF, "blob:"]}


class Swagger(SpectacularSwaggerSplitView):
    """The API, to try."""

    template_name = "fedserver/swagger.html"


class Redoc(SpectacularRedocView):
    """The API, to read."""

    template_name = "fedserver/redoc.html"


swagger: Any = csp_replace(STYLES)(Swagger.as_view(url_name="schema"))
redoc: Any = csp_replace(STYLES | WORKER)(Redoc.as_view(url_name="schema"))
