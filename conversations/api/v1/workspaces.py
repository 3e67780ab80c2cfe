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
from lib.problems import Problem, TooLarge
from lib.routes import RouteFacts
from lib.uploads import UploadParser

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
        parameters=[serializers.FolderQuery],
        responses=serializers.FolderSerializer,
    )
    @action(detail=False, methods=["get"])
    def files(self, request: Request, pk: UUID) -> Response:
        """List a folder of the workspace: subfolders first, then by name."""
        conversation = self.get_conversation()
        query = parse_query(serializers.FolderQuery, request)
        folder = services.list_folder(conversation_id=conversation.pk, **query)
        return Response(
            {
                "path": query["path"],
                "entries": [entry.to_wire() for entry in folder.entries],
                "total": folder.total,
                "next": folder.next,
            }
        )

    @RouteFacts(streams=True, body_limit="UPLOAD_MAX_BYTES")
    @extend_schema(
        operation_id="conversations_files_upload_create",
        request={"multipart/form-data": serializers.UploadSerializer},
        responses={201: serializers.UploadedSerializer},
    )
    @action(
        detail=False,
        methods=["post"],
        url_path="files/upload",
        parser_classes=[UploadParser],
    )
    def upload(self, request: ApiRequest, pk: UUID) -> Response:
        """Upload files into a folder of the workspace. Existing files with the same names are replaced.

        Files of one upload never replace each other: the second `image.png` becomes `image-2.png`. If a file cannot be
        written, the response is its error, and the files before it stay in the workspace.
        """
        conversation = self.get_conversation()
        body = self.validate_body(serializers.UploadSerializer)
        folder = body.get("path", "").strip("/")
        files = [
            (f"{folder}/{file.name}" if folder else str(file.name), file.file)
            for file in request.FILES.getlist("file")
        ]
        written = []
        for result in services.write_files(
            conversation_id=conversation.pk, files=files, by=request.user
        ):
            if isinstance(result, Problem):
                raise result
            written.append({"path": result.path, "size": result.size})
        return Response({**written[0], "files": written}, status=201)

    @extend_schema(
        operation_id="conversations_archive_retrieve",
        parameters=[serializers.ArchiveQuery],
        responses={(200, "application/octet-stream"): OpenApiTypes.BINARY},
    )
    @action(detail=False, methods=["get"])
    def archive(self, request: Request, pk: UUID) -> StreamingHttpResponse:
        """Download the whole workspace as one file.

        Entries that are not in the archive are listed in it, in `LEFT-OUT.txt`; the header `X-Archive-Left-Out` has
        their number. Git's own data, sockets, pipes, devices and symbolic links that may lead outside are left out.
        """
        conversation = self.get_conversation()
        query = parse_query(serializers.ArchiveQuery, request)
        archive = services.download_archive(conversation_id=conversation.pk, **query)
        return send_archive(archive, f"workspace-{conversation.pk.hex[:8]}.{query['format']}")

    @extend_schema(
        operation_id="conversations_git_changes_retrieve",
        responses=serializers.GitChangesSerializer,
    )
    @action(detail=False, methods=["get"], url_path="git/changes")
    def git_changes(self, request: Request, pk: UUID) -> Response:
        """List the changed files of the workspace's Git repository."""
        changes = services.list_changes(conversation_id=self.get_conversation().pk)
        items = [{"status": one.status, "path": one.path} for one in changes.items]
        return Response({"items": items, "total": changes.total})

    @extend_schema(
        operation_id="conversations_git_diff_retrieve",
        parameters=[PATH],
        responses=serializers.GitDiffSerializer,
    )
    @action(detail=False, methods=["get"], url_path="git/diff")
    def git_diff(self, request: Request, pk: UUID) -> Response:
        """Return a file's text before and after its changes, and the difference as Git writes it."""
        conversation = self.get_conversation()
        path = parse_query(serializers.FileQuery, request)["path"]
        return Response(services.git_diff(conversation_id=conversation.pk, path=path).to_wire())


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
        return send_file(services.read_file(conversation_id=conversation.pk, path=path))

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


DOWNLOAD_HEADERS = {
    # The agent may have written a hostile page, so browsers must not render it in this server's origin.
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
}


def send_file(file: Any) -> StreamingHttpResponse:
    """Return a download of a file from a sandbox.

    With its length in the head, a client notices that a download ended early.
    """
    length = {} if file.size is None else {"Content-Length": str(file.size)}
    return StreamingHttpResponse(
        file,
        content_type="application/octet-stream",
        headers={"Content-Disposition": "attachment", **DOWNLOAD_HEADERS, **length},
    )


def send_archive(
    archive: services.Archive, name: str, content_type: str = "application/octet-stream"
) -> StreamingHttpResponse:
    """Return a download of an archive. It is complete before the response begins."""
    return StreamingHttpResponse(
        archive,
        content_type=content_type,
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "Content-Length": str(archive.size),
            "X-Archive-Left-Out": str(archive.left_out),
            **DOWNLOAD_HEADERS,
        },
    )
