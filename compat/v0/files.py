"""V0's files of the workspace, by the services that the API has."""

import posixpath
from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import parsers
from rest_framework import serializers as fields
from rest_framework.request import Request
from rest_framework.response import Response

from compat.v0 import serializers
from compat.v0.serializers import Unprocessable, checked
from compat.v0.views import V0View, schema
from conversations import services
from conversations.models import Conversation
from lib.problems import Problem, TooLarge
from lib.routes import RouteFacts

SHOWN_BYTES = 2_097_152
FILES = 100
LEFT_OUT = {".git", ".DS_Store", "node_modules", "__pycache__", "lost+found", ".vscode"}
STATUSES = {"ADDED": "A", "UPDATED": "M", "DELETED": "D", "MOVED": "R"}


class NotText(Problem):
    """A file that cannot be shown as text."""

    status = 415
    code = "binary-file"
    sentence = "This file is not text and cannot be shown."


def inside(conversation: Conversation, path: str) -> str:
    """A path relative to the workspace; V0's clients also send the absolute ones that they were told."""
    root = conversation.sandbox.workspace if conversation.sandbox else ""
    if root and (path == root or path.startswith(root.rstrip("/") + "/")):
        return path[len(root) :].lstrip("/")
    return path


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/files")
class ListFilesView(V0View):
    """A folder."""

    permission = "files.view"

    @schema(
        "files_list",
        parameters=[OpenApiParameter("path", str)],
        responses={200: {"type": "array", "items": {"type": "string"}}},
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """Names relative to the workspace, folders with a slash behind them, without caches and version control."""
        conversation = self.find(pk)
        path = inside(conversation, request.query_params.get("path", ""))
        entries = services.list_files(conversation_id=conversation.pk, path=path)
        kept = [entry for entry in entries if entry.name not in LEFT_OUT]
        return Response([e.path + ("/" if e.type == "directory" else "") for e in kept])


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/files/content")
class SelectFileView(V0View):
    """A file's text."""

    permission = "files.view"

    @schema(
        "file_select",
        parameters=[OpenApiParameter("file", str, required=True)],
        responses=inline_serializer("V0File", {"code": fields.CharField()}),
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """Its content as UTF-8; 415 for anything else."""
        conversation = self.find(pk)
        path = inside(conversation, _required(request, "file"))
        content = bytearray()
        chunks = services.read_file(conversation_id=conversation.pk, path=path)
        for chunk in chunks:
            content += chunk
            if len(content) > SHOWN_BYTES:
                if close := getattr(chunks, "close", None):
                    close()
                raise TooLarge(f"A file of more than {SHOWN_BYTES} bytes is not shown.")
        try:
            if b"\0" in content:
                raise NotText
            return Response({"code": content.decode()})
        except UnicodeDecodeError as error:
            raise NotText from error


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/archive")
class ZipView(V0View):
    """The workspace."""

    permission = "files.view"

    @schema("files_zip", responses={(200, "application/zip"): OpenApiTypes.BINARY})
    def get(self, request: Request, pk: UUID) -> StreamingHttpResponse:
        """All of it in one file."""
        conversation = self.find(pk)
        chunks = services.download_archive(conversation_id=conversation.pk, format="zip")
        return StreamingHttpResponse(
            chunks,
            content_type="application/zip",
            headers={
                "Content-Disposition": 'attachment; filename="workspace.zip"',
                "Content-Security-Policy": "sandbox; default-src 'none'",
            },
        )


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/git/changes")
class GitChangesView(V0View):
    """What changed."""

    permission = "files.view"

    @schema(
        "git_changes",
        responses=inline_serializer(
            "V0GitChange",
            {"status": fields.CharField(), "path": fields.CharField()},
            many=True,
        ),
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """`M`, `A`, `D`, `R` or `U` and the path."""
        found = services.git_changes(conversation_id=self.find(pk).pk)
        return Response(
            [{"status": STATUSES.get(c["status"], "U"), "path": c["path"]} for c in found]
        )


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/git/diff")
class GitDiffView(V0View):
    """A file before and after."""

    permission = "files.view"

    @schema(
        "git_diff",
        parameters=[OpenApiParameter("path", str, required=True)],
        responses=inline_serializer(
            "V0GitDiff",
            {
                "modified": fields.CharField(allow_null=True),
                "original": fields.CharField(allow_null=True),
            },
        ),
    )
    def get(self, request: Request, pk: UUID) -> Response:
        conversation = self.find(pk)
        path = inside(conversation, _required(request, "path"))
        diff = services.git_diff(conversation_id=conversation.pk, path=path)
        return Response({"modified": diff["modified"], "original": diff["original"]})


@RouteFacts(
    streams=True, body_limit="UPLOAD_MAX_BYTES", replaced_by="/api/v1/conversations/{}/files/upload"
)
class UploadFilesView(V0View):
    """Files into the workspace."""

    permission = "files.edit"
    parser_classes = (parsers.MultiPartParser,)

    @extend_schema(
        operation_id="v0_files_upload",
        tags=["compat"],
        request={"multipart/form-data": serializers.V0UploadSerializer},
        responses=inline_serializer(
            "V0Uploaded",
            {
                "uploaded_files": fields.ListField(child=fields.CharField()),
                "skipped_files": inline_serializer(
                    "V0Skipped",
                    {"name": fields.CharField(), "reason": fields.CharField()},
                    many=True,
                ),
            },
        ),
    )
    def post(self, request: Request, pk: UUID) -> Response:
        """Write them byte by byte; a file that was not written is told under `skipped_files`, with the reason."""
        conversation = self.find(pk)
        files = [*request.FILES.getlist("files"), *request.FILES.getlist("files[]")]
        if not files:
            raise Unprocessable("files: Send at least one file.")
        uploaded, skipped = [], []
        root = conversation.sandbox.workspace if conversation.sandbox else ""
        for place, file in enumerate(files):
            name = posixpath.basename(file.name or "")
            reason = _reason_to_skip(file, name, place)
            if not reason:
                try:
                    services.write_file(
                        conversation_id=conversation.pk, path=name, content=file.file
                    )
                    uploaded.append(posixpath.join(root, name))
                except services.SandboxNotRunning:
                    raise
                except Problem as refusal:
                    reason = refusal.detail
            if reason:
                skipped.append({"name": file.name, "reason": reason})
        return Response({"uploaded_files": uploaded, "skipped_files": skipped})


def _reason_to_skip(file: Any, name: str, place: int) -> str:
    if place >= FILES:
        return f"At most {FILES} files are taken at a time."
    if file.size > settings.UPLOAD_MAX_BYTES:
        return f"A file may have at most {settings.UPLOAD_MAX_BYTES} bytes."
    return "" if name.strip(". ") else "The file has no name."


def _required(request: Request, name: str) -> str:
    kind = type(
        "Query",
        (fields.Serializer,),
        {name: fields.CharField(max_length=4_096, trim_whitespace=False)},
    )
    found: str = checked(kind, {name: request.query_params.get(name)})[name]
    return found
