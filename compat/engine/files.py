"""The engine's routes ``/api/file…`` and ``/api/git…``. The key in a request determines the conversation."""

import posixpath
from typing import Any

from django.http import Http404, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from compat.engine import serializers
from compat.engine.views import TAGS
from compat.v1.base import Unprocessable, V1View
from compat.v1.responses import WORKSPACE
from conversations import services
from conversations.api.authentication import ConversationKey
from conversations.api.v1.workspaces import send_file
from conversations.models import Conversation
from lib.routes import RouteFacts
from lib.uploads import UploadParser

PATH = OpenApiParameter("path", str, OpenApiParameter.PATH)
PATH_QUERY = OpenApiParameter("path", str, required=True)


def workspace_path(path: str, conversation: Conversation) -> str:
    """Convert a client's path to a path relative to the workspace.

    Clients know the workspace by its real path in the sandbox or as ``/workspace/project``. The web client appends the
    repository's name to ``/workspace/project``, and uploads files to ``/workspace``. Any other absolute path is
    returned unchanged, and the service then rejects it.
    """
    root = conversation.sandbox.workspace if conversation.sandbox else ""
    path = "/" + path.lstrip("/") if path.startswith("/") else path
    # Try the real path first, then the two paths that clients know.
    for prefix in (root, WORKSPACE, posixpath.dirname(WORKSPACE)):
        if prefix and (path == prefix or path.startswith(prefix.rstrip("/") + "/")):
            path = path[len(prefix) :].strip("/")
            # Only the web client appends the repository's name, and never to the real path.
            name = str((conversation.repository or {}).get("full_name", "")).rpartition("/")[2]
            if name and prefix != root and (path == name or path.startswith(name + "/")):
                path = path[len(name) :].strip("/")
            break
    return path


class WorkspaceView(V1View):
    """The base class of views for a workspace. The conversation key in the request determines the conversation."""

    serializer_class: Any = serializers.RuntimeUploadedSerializer

    def get_conversation(self) -> Conversation:
        """Return the conversation that the key belongs to, after checking the permission that the view requires.

        Raise ``Unprocessable`` if the request has no conversation key, because the URL does not name a conversation.
        """
        if not isinstance(self.request.auth, ConversationKey):
            raise Unprocessable(
                "Send the conversation's `session_api_key` in the header X-Session-API-Key."
            )
        rows = Conversation.objects.visible_to(self.request.user).select_related("sandbox")
        row: Conversation | None = rows.filter(pk=self.request.auth.conversation.pk).first()
        if row is None:
            raise Http404
        self.check_object_permissions(self.request, row)
        return row

    def path(self, path: str | None) -> str:
        """Return the file path in the URL, else in the query string. Raise ``Unprocessable`` if both are missing."""
        path = path if path is not None else self.request.query_params.get("path")
        if path is None:
            raise Unprocessable("path: This parameter is required.")
        return path


@RouteFacts(
    streams=True, body_limit="UPLOAD_MAX_BYTES", replaced_by="/api/v1/conversations/{}/files/upload"
)
class UploadView(WorkspaceView):
    """The route that writes a file into the workspace. The file's path is in the query string."""

    permission = "files.edit"
    parser_classes = [UploadParser]  # noqa: RUF012 - DRF's own form

    @extend_schema(
        operation_id="runtime_file_upload",
        tags=TAGS,
        parameters=[PATH_QUERY],
        request={"multipart/form-data": serializers.RuntimeUploadSerializer},
    )
    def post(self, request: Request, path: str | None = None) -> Response:
        """Write a file into the workspace. Missing folders are created."""
        row = self.get_conversation()
        content = self.body(serializers.RuntimeUploadSerializer)["file"].file
        if len(request.FILES.getlist("file")) > 1:
            raise Unprocessable("file: Send one file. The path names one file only.")
        target = workspace_path(self.path(path), row)
        size = services.write_file(
            conversation_id=row.pk, path=target, content=content, by=self.request.user
        )
        return Response({"success": True, "file_size": size})


@RouteFacts(
    streams=True, body_limit="UPLOAD_MAX_BYTES", replaced_by="/api/v1/conversations/{}/files/upload"
)
class UploadAtPathView(UploadView):
    """The route that writes a file into the workspace. The file's path is in the URL."""

    @extend_schema(
        operation_id="runtime_file_upload_to",
        tags=TAGS,
        parameters=[PATH],
        request={"multipart/form-data": serializers.RuntimeUploadSerializer},
    )
    def post(self, request: Request, path: str | None = None) -> Response:
        """Write a file into the workspace. Missing folders are created."""
        return super().post(request, path)


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/files/content")
class DownloadView(WorkspaceView):
    """The route that returns the content of a file in the workspace."""

    permission = "files.view"

    @extend_schema(
        operation_id="runtime_file_download",
        tags=TAGS,
        parameters=[PATH_QUERY],
        responses={(200, "application/octet-stream"): OpenApiTypes.BINARY},
    )
    def get(self, request: Request, path: str | None = None) -> StreamingHttpResponse:
        """Return the content of a file."""
        row = self.get_conversation()
        path = workspace_path(self.path(path), row)
        return send_file(services.read_file(conversation_id=row.pk, path=path))


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/git/changes")
class ChangesView(WorkspaceView):
    """The changed files in the workspace's repository. The path is in the query string."""

    permission = "files.view"
    serializer_class = serializers.RuntimeChangeSerializer

    @extend_schema(
        operation_id="runtime_git_changes",
        tags=TAGS,
        parameters=[PATH_QUERY],
        responses=serializers.RuntimeChangeSerializer(many=True),
    )
    def get(self, request: Request, path: str | None = None) -> Response:
        """Return the path and status of each changed file in the workspace's repository."""
        return Response(services.git_changes(conversation_id=self.get_conversation().pk))


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/git/changes")
class ChangesAtPathView(ChangesView):
    """The changed files in the workspace's repository. The path is in the URL."""

    @extend_schema(
        operation_id="runtime_git_changes_of",
        tags=TAGS,
        parameters=[PATH],
        responses=serializers.RuntimeChangeSerializer(many=True),
    )
    def get(self, request: Request, path: str | None = None) -> Response:
        """Return the path and status of each changed file in the workspace's repository."""
        return super().get(request, path)


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/git/diff")
class DiffView(WorkspaceView):
    """The text of a changed file, before and after the change. The file's path is in the query string."""

    permission = "files.view"
    serializer_class = serializers.RuntimeDiffSerializer

    @extend_schema(operation_id="runtime_git_diff", tags=TAGS, parameters=[PATH_QUERY])
    def get(self, request: Request, path: str | None = None) -> Response:
        """Return the file's new text as `modified` and its old text as `original`.

        A text is null if the file did not exist. `encoding` is the encoding in the sandbox, or `binary`; then each text
        is a sentence with the size. Respond with 413 for a file of more than 5 MiB.
        """
        row = self.get_conversation()
        diff = services.git_diff(conversation_id=row.pk, path=workspace_path(self.path(path), row))
        return Response(diff.to_texts())


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/git/diff")
class DiffAtPathView(DiffView):
    """The text of a changed file, before and after the change. The file's path is in the URL."""

    @extend_schema(operation_id="runtime_git_diff_of", tags=TAGS, parameters=[PATH])
    def get(self, request: Request, path: str | None = None) -> Response:
        """Return the file's new text as `modified` and its old text as `original` (null if it is a new file)."""
        return super().get(request, path)
