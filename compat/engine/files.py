"""``/api/file…`` and ``/api/git…`` as the engine serves them: of the conversation whose key the caller has."""

import posixpath
from typing import Any

from django.http import Http404, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import parsers
from rest_framework.request import Request
from rest_framework.response import Response

from compat.engine import shapes
from compat.engine.views import TAGS
from compat.v1.base import Unprocessable, V1View
from compat.v1.responses import WORKSPACE
from conversations import services
from conversations.api.authentication import ConversationKey
from conversations.models import Conversation
from lib.routes import RouteFacts

PATH = OpenApiParameter("path", str, OpenApiParameter.PATH)
PATH_QUERY = OpenApiParameter("path", str, required=True)
SAVED_NEVER_SHOWN = {
    "Content-Disposition": "attachment",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
}


def relative(path: str, conversation: Conversation) -> str:
    """A path as clients know it, relative to the workspace.

    They know the workspace by the sandbox's own name for it or as ``/workspace/project``, and its repository
    as a folder in that; uploads go to ``/workspace``. What is none of these is left for the service to refuse.
    """
    root = conversation.sandbox.workspace if conversation.sandbox else ""
    path = "/" + path.lstrip("/") if path.startswith("/") else path
    for known in (root, WORKSPACE, posixpath.dirname(WORKSPACE)):
        if known and (path == known or path.startswith(known.rstrip("/") + "/")):
            path = path[len(known) :].strip("/")
            name = str((conversation.repository or {}).get("full_name", "")).rpartition("/")[2]
            if name and known != root and (path == name or path.startswith(name + "/")):
                path = path[len(name) :].strip("/")
            break
    return path


class WorkspaceView(V1View):
    """A call about the workspace of the key's conversation."""

    serializer_class: Any = shapes.RuntimeUploadedSerializer

    def the_one(self) -> Conversation:
        """The conversation of the key; 422 for a caller who came by something else."""
        if not isinstance(self.request.auth, ConversationKey):
            raise Unprocessable("This address needs a conversation's session_api_key.")
        rows = Conversation.objects.visible_to(self.request.user).select_related("sandbox")
        row: Conversation | None = rows.filter(pk=self.request.auth.conversation.pk).first()
        if row is None:
            raise Http404
        self.check_object_permissions(self.request, row)
        return row

    def path(self, given: str | None) -> str:
        """The path of the address, or of the query."""
        found = given if given is not None else self.request.query_params.get("path")
        if found is None:
            raise Unprocessable("path: this is required.")
        return found


@RouteFacts(
    streams=True, body_limit="UPLOAD_MAX_BYTES", replaced_by="/api/v1/conversations/{}/files/upload"
)
class UploadView(WorkspaceView):
    """A file to be written."""

    permission = "files.edit"
    parser_classes = [parsers.MultiPartParser]  # noqa: RUF012 - DRF's own form

    @extend_schema(
        operation_id="runtime_file_upload",
        tags=TAGS,
        parameters=[PATH_QUERY],
        request={"multipart/form-data": shapes.RuntimeUploadSerializer},
    )
    def post(self, request: Request, path: str | None = None) -> Response:
        """Write a file of the workspace, its folders included."""
        row = self.the_one()
        content = self.body(shapes.RuntimeUploadSerializer)["file"].file
        where = relative(self.path(path), row)
        size = services.write_file(conversation_id=row.pk, path=where, content=content)
        return Response({"success": True, "file_size": size})


@RouteFacts(
    streams=True, body_limit="UPLOAD_MAX_BYTES", replaced_by="/api/v1/conversations/{}/files/upload"
)
class UploadToView(UploadView):
    """A file to be written, with the path in the URL."""

    @extend_schema(
        operation_id="runtime_file_upload_to",
        tags=TAGS,
        parameters=[PATH],
        request={"multipart/form-data": shapes.RuntimeUploadSerializer},
    )
    def post(self, request: Request, path: str | None = None) -> Response:
        """Write a file of the workspace, its folders included."""
        return super().post(request, path)


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/files/content")
class DownloadView(WorkspaceView):
    """A file to be read."""

    permission = "files.view"

    @extend_schema(
        operation_id="runtime_file_download",
        tags=TAGS,
        parameters=[PATH_QUERY],
        responses={(200, "application/octet-stream"): OpenApiTypes.BINARY},
    )
    def get(self, request: Request, path: str | None = None) -> StreamingHttpResponse:
        """A file's bytes."""
        row = self.the_one()
        chunks = services.read_file(conversation_id=row.pk, path=relative(self.path(path), row))
        return StreamingHttpResponse(
            chunks, content_type="application/octet-stream", headers=SAVED_NEVER_SHOWN
        )


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/git/changes")
class ChangesView(WorkspaceView):
    """What changed."""

    permission = "files.view"
    serializer_class = shapes.RuntimeChangeSerializer

    @extend_schema(
        operation_id="runtime_git_changes",
        tags=TAGS,
        parameters=[PATH_QUERY],
        responses=shapes.RuntimeChangeSerializer(many=True),
    )
    def get(self, request: Request, path: str | None = None) -> Response:
        """What changed in the workspace's repository."""
        return Response(services.git_changes(conversation_id=self.the_one().pk))


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/git/changes")
class ChangesOfView(ChangesView):
    """What changed, with the path in the URL."""

    @extend_schema(
        operation_id="runtime_git_changes_of",
        tags=TAGS,
        parameters=[PATH],
        responses=shapes.RuntimeChangeSerializer(many=True),
    )
    def get(self, request: Request, path: str | None = None) -> Response:
        """What changed in the workspace's repository."""
        return super().get(request, path)


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/git/diff")
class DiffView(WorkspaceView):
    """A file before and after."""

    permission = "files.view"
    serializer_class = shapes.RuntimeDiffSerializer

    @extend_schema(operation_id="runtime_git_diff", tags=TAGS, parameters=[PATH_QUERY])
    def get(self, request: Request, path: str | None = None) -> Response:
        """Both texts, null where there is none."""
        row = self.the_one()
        diff = services.git_diff(conversation_id=row.pk, path=relative(self.path(path), row))
        return Response({"modified": diff["modified"], "original": diff["original"]})


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/git/diff")
class DiffOfView(DiffView):
    """A file before and after, with the path in the URL."""

    @extend_schema(operation_id="runtime_git_diff_of", tags=TAGS, parameters=[PATH])
    def get(self, request: Request, path: str | None = None) -> Response:
        """Both texts, null where there is none."""
        return super().get(request, path)
