"""API endpoints for a conversation's workspace: files, an archive, and Git changes."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any
from uuid import UUID

from django.conf import settings
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import parsers, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.requests import ApiRequest
from conversations import services
from conversations.api.v1 import serializers
from conversations.api.v1.mixins import NestedMixin
from lib.api import parse_query
from lib.problems import TooLarge
from lib.routes import RouteFacts

PATH = OpenApiParameter("path", str, description="The path, relative to the workspace.")
CHUNK_BYTES, SPOOL_BYTES = 65_536, 1_048_576
"""The size of a read, and the size up to which an upload is kept in memory instead of on disk."""


class RawParser(parsers.BaseParser):
    """A parser that accepts a body of any content type and returns it unparsed, as a stream of bytes."""

    media_type = "*/*"

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
        return stream


@RouteFacts(streams=True)
class WorkspaceViewSet(NestedMixin, viewsets.ViewSet):
    """The folders, the archive and the Git changes of a workspace. Every request needs a running sandbox."""

    permission = "files.view"
    permissions_by_action = {"upload": "files.edit"}  # noqa: RUF012 - read by HasPermission
    url_names = {  # noqa: RUF012 - read by Router
        "files": "conversation-files",
        "upload": "conversation-upload",
        "archive": "conversation-archive",
        "git_changes": "conversation-git-changes",
        "git_diff": "conversation-git-diff",
    }

    @extend_schema(
        operation_id="conversations_files_retrieve",
        parameters=[PATH],
        responses=serializers.FolderSerializer,
    )
    @action(detail=False, methods=["get"])
    def files(self, request: Request, pk: UUID) -> Response:
        """List a folder of the workspace."""
        conversation = self.get_conversation()
        path = parse_query(serializers.FileQuery, request)["path"]
        entries = services.list_files(conversation_id=conversation.pk, path=path)
        return Response({"path": path, "entries": [entry.to_wire() for entry in entries]})

    @RouteFacts(streams=True, body_limit="UPLOAD_MAX_BYTES")
    @extend_schema(
        operation_id="conversations_files_upload_create",
        request={"multipart/form-data": serializers.UploadSerializer},
        responses={201: serializers.WrittenFileSerializer},
    )
    @action(
        detail=False,
        methods=["post"],
        url_path="files/upload",
        parser_classes=[parsers.MultiPartParser],
    )
    def upload(self, request: ApiRequest, pk: UUID) -> Response:
        """Upload a file into a folder of the workspace. A file with the same name is replaced."""
        conversation = self.get_conversation()
        body = self.validate_body(serializers.UploadSerializer)
        folder = body.get("path", "").strip("/")
        path = f"{folder}/{body['file'].name}" if folder else body["file"].name
        size = services.write_file(
            conversation_id=conversation.pk,
            path=path,
            content=body["file"].file,
            by=request.user,
        )
        return Response({"path": path, "size": size}, status=201)

    @extend_schema(
        operation_id="conversations_archive_retrieve",
        parameters=[serializers.ArchiveQuery],
        responses={(200, "application/octet-stream"): OpenApiTypes.BINARY},
    )
    @action(detail=False, methods=["get"])
    def archive(self, request: Request, pk: UUID) -> StreamingHttpResponse:
        """Download the whole workspace as one file."""
        conversation = self.get_conversation()
        kind = parse_query(serializers.ArchiveQuery, request)["format"]
        chunks = services.download_archive(conversation_id=conversation.pk, format=kind)
        return _download(chunks, name=f"workspace-{conversation.pk.hex[:8]}.{kind}")

    @extend_schema(
        operation_id="conversations_git_changes_retrieve",
        responses=serializers.GitChangesSerializer,
    )
    @action(detail=False, methods=["get"], url_path="git/changes")
    def git_changes(self, request: Request, pk: UUID) -> Response:
        """List the changed files of the workspace's Git repository."""
        items = services.git_changes(conversation_id=self.get_conversation().pk)
        return Response({"items": items})

    @extend_schema(
        operation_id="conversations_git_diff_retrieve",
        parameters=[PATH],
        responses=serializers.GitDiffSerializer,
    )
    @action(detail=False, methods=["get"], url_path="git/diff")
    def git_diff(self, request: Request, pk: UUID) -> Response:
        """Return a file's text before and after its changes."""
        conversation = self.get_conversation()
        path = parse_query(serializers.FileQuery, request)["path"]
        return Response(services.git_diff(conversation_id=conversation.pk, path=path))


@RouteFacts(streams=True, body_limit="UPLOAD_MAX_BYTES")
class FileContentViewSet(NestedMixin, viewsets.ViewSet):
    """The bytes of a file in a workspace."""

    permissions_by_action = {  # noqa: RUF012 - read by HasPermission
        "retrieve": "files.view",
        "update": "files.edit",
    }
    parser_classes = (RawParser,)

    @extend_schema(
        operation_id="conversations_files_read",
        parameters=[PATH],
        responses={(200, "application/octet-stream"): OpenApiTypes.BINARY},
    )
    def retrieve(self, request: Request, pk: UUID) -> StreamingHttpResponse:
        """Download a file."""
        conversation = self.get_conversation()
        path = parse_query(serializers.FileQuery, request)["path"]
        return _download(services.read_file(conversation_id=conversation.pk, path=path))

    @extend_schema(
        operation_id="conversations_files_write",
        parameters=[PATH],
        request={"application/octet-stream": OpenApiTypes.BINARY},
        responses=serializers.WrittenFileSerializer,
    )
    def update(self, request: ApiRequest, pk: UUID) -> Response:
        """Write a file. Missing folders are created."""
        conversation = self.get_conversation()
        path = parse_query(serializers.FileQuery, request)["path"]
        with _spooled(request.stream) as content:
            size = services.write_file(
                conversation_id=conversation.pk, path=path, content=content, by=request.user
            )
        return Response({"path": path, "size": size})


@contextmanager
def _spooled(stream: Any) -> Iterator[IO[bytes]]:
    """Yield the request body as a temporary file. Raise ``TooLarge`` if the body exceeds ``UPLOAD_MAX_BYTES``.

    The size is checked before the first byte is sent to the sandbox, so a rejected upload changes no file.
    """
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as content:
        while chunk := stream.read(CHUNK_BYTES) if stream is not None else b"":
            content.write(chunk)
            if content.tell() > settings.UPLOAD_MAX_BYTES:
                raise TooLarge(f"A file may have at most {settings.UPLOAD_MAX_BYTES} bytes.")
        content.seek(0)
        yield content


def _download(chunks: Any, name: str = "") -> StreamingHttpResponse:
    """Return a download of bytes from a sandbox.

    The agent may have written a hostile page, so the headers keep browsers from rendering it in this server's origin.
    """
    disposition = f'attachment; filename="{name}"' if name else "attachment"
    return StreamingHttpResponse(
        chunks,
        content_type="application/octet-stream",
        headers={
            "Content-Disposition": disposition,
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox; default-src 'none'",
        },
    )
