"""The store API: which path does what, and with which right.

Serves ``aysfs.server.serve``. The one table of everything that the server answers; a path that is
not here is 404. docs/store-server.md describes it.
"""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import ASGIApp

from aysfs.server import metrics as counting
from aysfs.server import reading, writing
from aysfs.server.accounts import Right
from aysfs.server.guard import Guard, guarded
from aysfs.server.page import get_page
from aysfs.server.service import Action, Service
from aysfs.store import layout

READ, WRITE, DELETE = (Right.READ,), (Right.WRITE,), (Right.DELETE,)
EITHER = (Right.READ, Right.WRITE)  # what a push must ask


_Table = dict[str, dict[str, Action]]


def make_app(service: Service) -> ASGIApp:
    """The application that serves a store."""
    below = Mount("/store", app=Router(_routes(service, _API), redirect_slashes=False))
    routes: list[BaseRoute] = [below, *_routes(service, _FILES)]
    return Guard(Router(routes, redirect_slashes=False), service)


def _routes(service: Service, table: _Table) -> list[Route]:
    return [
        Route(path, guarded(service, actions), methods=list(actions))
        for path, actions in table.items()
    ]


def _is_claim(request: Request) -> bool:
    return layout.is_claim(request.path_params["name"])


def _to_read(request: Request) -> tuple[Right, ...]:
    pushes = _is_claim(request) or layout.is_of_a_list(request.path_params["name"])
    return EITHER if pushes else READ


def _to_delete(request: Request) -> tuple[Right, ...]:
    return (*WRITE, *DELETE) if _is_claim(request) else DELETE


async def get_health(service: Service, _request: Request) -> Response:
    """Whether the store's disk is there."""
    service.place.check()
    return PlainTextResponse("ok\n")


async def get_metrics(service: Service, _request: Request) -> Response:
    """All counters."""
    return Response(service.metrics.text(), media_type=counting.CONTENT_TYPE)


async def get_namespace(service: Service, request: Request) -> Response:
    """Whether a namespace is there; its listing is that of ``md/``."""
    if not service.place.has(request.path_params["namespace"]):
        raise HTTPException(404, "no such namespace")
    return PlainTextResponse("a namespace\n")


# Tried in this order, and most requests are for blobs.
_FILES: _Table = {
    "/{namespace}/{first}/{second}/{digest}": {
        "GET": Action("blob", reading.get_blob, READ),
    },
    "/{namespace}/files/{first}/{second}/{digest}": {
        "GET": Action("blob", reading.get_blob, READ),
    },
    "/": {"GET": Action("page", get_page, READ)},
    "/health": {"GET": Action("health", get_health, (Right.NONE,))},
    "/metrics": {"GET": Action("metrics", get_metrics, READ)},
    "/static/{name}": {
        "GET": Action("static", reading.get_static, READ),
        "POST": Action("static", writing.put_static, WRITE),
        "PUT": Action("static", writing.put_static, WRITE),
    },
    "/{namespace}/": {"GET": Action("list", get_namespace, READ)},
    "/{namespace}/md/": {"GET": Action("list", reading.get_listing, READ)},
    "/{namespace}/md/{name}": {
        "GET": Action("list", reading.get_beside_lists, _to_read),
        "PUT": Action("publish", writing.put_beside_lists, WRITE),
        "DELETE": Action("delete", writing.delete_beside_lists, _to_delete),
    },
}

_API: _Table = {  # below /store
    "/{namespace}": {
        "GET": Action("enumerate", reading.get_all, READ),
        "POST": Action("upload", writing.post_blob, WRITE),
    },
    "/{namespace}/about": {"GET": Action("about", reading.get_about, (*EITHER, Right.DELETE))},
    "/{namespace}/exists": {"POST": Action("exists", reading.post_exists, EITHER)},
    "/{namespace}/blobs": {"POST": Action("upload", writing.post_frames, WRITE)},
    "/{namespace}/delete": {"POST": Action("delete", writing.post_delete, DELETE)},
    "/{namespace}/notes": {"GET": Action("enumerate", reading.get_notes, EITHER)},
    "/{namespace}/strays": {"GET": Action("enumerate", reading.get_strays, READ)},
    "/{namespace}/strays/delete": {"POST": Action("delete", writing.post_delete_strays, DELETE)},
    "/{namespace}/shelf/{first}": {"GET": Action("enumerate", reading.get_shelf, READ)},
    "/{namespace}/{digest}": {
        "GET": Action("blob", reading.get_blob, READ),
        "POST": Action("upload", writing.post_blob, WRITE),
        "DELETE": Action("delete", writing.delete_blob, DELETE),
    },
}
