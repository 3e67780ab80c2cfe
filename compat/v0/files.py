"""V0's routes for the files of a workspace: list, show, download, changes, and uploads."""

import posixpath
from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers as fields
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.requests import ApiRequest
from compat.v0 import serializers
from compat.v0.serializers import Unprocessable, validate
from compat.v0.views import V0View, schema
from conversations import services
from conversations.api.v1.workspaces import send_archive
from conversations.models import Conversation
from lib.problems import Problem, TooLarge
from lib.routes import RouteFacts
from lib.uploads import UploadParser

VIEW_MAX_BYTES = 2_097_152
"""The maximum size of a file whose text is returned, in bytes."""
UPLOAD_FILES_MAX = 100
HIDDEN_NAMES = {".git", ".DS_Store", "node_modules", "__pycache__", "lost+found", ".vscode"}
# The engine reports words, V0 clients expect the letters of ``git status``.
STATUSES = {"ADDED": "A", "UPDATED": "M", "DELETED": "D", "MOVED": "R"}


class NotText(Problem):
    """The file's content is not UTF-8 text."""

    status = 415
    code = "binary-file"
    sentence = (
        "This file is not a text file, so it cannot be shown. Download the workspace instead."
    )


def workspace_path(conversation: Conversation, path: str) -> str:
    """Make a client's path relative to the workspace. Upload responses contain absolute paths, which clients send."""
    root = conversation.sandbox.workspace if conversation.sandbox else ""
    if root and (path == root or path.startswith(root.rstrip("/") + "/")):
        return path[len(root) :].lstrip("/")
    return path


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/files")
class ListFilesView(V0View):
    """The contents of a folder."""

    permission = "files.view"

    @schema(
        "files_list",
        parameters=[OpenApiParameter("path", str)],
        responses={200: {"type": "array", "items": {"type": "string"}}},
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """Return the contents of a folder as paths relative to the workspace.

        The paths of folders end with a slash. Folders of version control and caches are left out.
        """
        conversation = self.find(pk)
        path = workspace_path(conversation, request.query_params.get("path", ""))
        entries = services.list_files(conversation_id=conversation.pk, path=path)
        visible = [entry for entry in entries if entry.name not in HIDDEN_NAMES]
        return Response([e.path + ("/" if e.type == "directory" else "") for e in visible])


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/files/content")
class SelectFileView(V0View):
    """The text of a file."""

    permission = "files.view"

    @schema(
        "file_select",
        parameters=[OpenApiParameter("file", str, required=True)],
        responses=inline_serializer("V0File", {"code": fields.CharField()}),
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """Return the file's text. Respond with 415 if it is not UTF-8 text, and with 413 if it exceeds 2 MiB."""
        conversation = self.find(pk)
        path = workspace_path(conversation, _required_parameter(request, "file"))
        content = bytearray()
        chunks = services.read_file(conversation_id=conversation.pk, path=path)
        for chunk in chunks:
            content += chunk
            if len(content) > VIEW_MAX_BYTES:
                # Close the request to the sandbox; otherwise the sandbox sends the rest of the file.
                chunks.close()
                raise TooLarge(
                    f"This file is larger than {VIEW_MAX_BYTES} bytes and cannot be shown. "
                    "Download the workspace instead."
                )
        try:
            # NUL is valid in UTF-8, but a file that contains it is not a text for people.
            if b"\0" in content:
                raise NotText
            return Response({"code": content.decode()})
        except UnicodeDecodeError as error:
            raise NotText from error


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/archive")
class ZipView(V0View):
    """The workspace as an archive."""

    permission = "files.view"

    @schema("files_zip", responses={(200, "application/zip"): OpenApiTypes.BINARY})
    def get(self, request: Request, pk: UUID) -> StreamingHttpResponse:
        """Return a ZIP archive of the workspace. `LEFT-OUT.txt` in it lists the entries that it does not contain."""
        conversation = self.find(pk)
        archive = services.download_archive(conversation_id=conversation.pk, format="zip")
        return send_archive(archive, "workspace.zip", "application/zip")


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/git/changes")
class GitChangesView(V0View):
    """The changed files in the workspace's repository."""

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
        """Return the path and the status of each changed file.

        The status is `M` (modified), `A` (added), `D` (deleted), `R` (renamed) or `U` (unknown).
        """
        changes = services.git_changes(conversation_id=self.find(pk).pk)
        return Response(
            [{"status": STATUSES.get(c["status"], "U"), "path": c["path"]} for c in changes]
        )


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/git/diff")
class GitDiffView(V0View):
    """The text of a changed file, before and after the change."""

    permission = "files.view"

    @schema(
        "git_diff",
        parameters=[OpenApiParameter("path", str, required=True)],
        responses=inline_serializer(
            "V0GitDiff",
            {
                "modified": fields.CharField(allow_null=True),
                "original": fields.CharField(allow_null=True),
                "encoding": fields.CharField(allow_null=True),
            },
        ),
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """Return the file's new text as `modified` and its old text as `original`.

        A text is null if the file did not exist. `encoding` is the encoding in the sandbox, or `binary`; then each text
        is a sentence with the size. Respond with 413 for a file of more than 5 MiB.
        """
        conversation = self.find(pk)
        path = workspace_path(conversation, _required_parameter(request, "path"))
        diff = services.git_diff(conversation_id=conversation.pk, path=path)
        return Response(diff.to_texts())


@RouteFacts(
    streams=True, body_limit="UPLOAD_MAX_BYTES", replaced_by="/api/v1/conversations/{}/files/upload"
)
class UploadFilesView(V0View):
    """The route that writes files into the workspace."""

    permission = "files.edit"
    parser_classes = (UploadParser,)

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
    def post(self, request: ApiRequest, pk: UUID) -> Response:
        """Write the files into the workspace. `skipped_files` lists the files that were not written, with reasons.

        Of two files with an equal name, the second gets a number.
        """
        conversation = self.find(pk)
        # The web client names the field ``files``. The API reference of OpenHands names it ``files[]``.
        files = [*request.FILES.getlist("files"), *request.FILES.getlist("files[]")]
        if not files:
            raise Unprocessable("files: Send at least one file.")
        skipped, accepted = [], []
        for position, file in enumerate(files):
            name = posixpath.basename(file.name or "")
            if reason := _find_reason_to_skip(file, name, position):
                skipped.append({"name": file.name, "reason": reason})
            else:
                accepted.append((name, file.file))
        uploaded = []
        root = conversation.sandbox.workspace if conversation.sandbox else ""
        results = services.write_files(
            conversation_id=conversation.pk, files=accepted, by=request.user
        )
        for (name, _), result in zip(accepted, results, strict=True):
            if isinstance(result, services.SandboxNotRunning | services.SandboxSilent):
                raise result  # no file can be written, so this is the error of the whole request
            if isinstance(result, Problem):
                skipped.append({"name": name, "reason": result.detail})
            else:
                uploaded.append(posixpath.join(root, result.path))
        return Response({"uploaded_files": uploaded, "skipped_files": skipped})


def _find_reason_to_skip(file: Any, name: str, position: int) -> str:
    if position >= UPLOAD_FILES_MAX:
        return f"At most {UPLOAD_FILES_MAX} files can be uploaded at a time."
    if file.size > settings.UPLOAD_MAX_BYTES:
        return f"A file may have at most {settings.UPLOAD_MAX_BYTES} bytes."
    return "" if name.strip(". ") else "The file has no valid name."


def _required_parameter(request: Request, name: str) -> str:
    kind = type(
        "Query",
        (fields.Serializer,),
        {name: fields.CharField(max_length=4_096, trim_whitespace=False)},
    )
    value: str = validate(kind, {name: request.query_params.get(name)})[name]
    return value
