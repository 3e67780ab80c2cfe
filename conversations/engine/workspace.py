"""Actions in a sandbox's workspace: run the programs of ``conversations.engine.inside`` and transfer files.

The engine's own routes (openhands-agent-server 1.58.2) split Git's output at white space, read files as UTF-8, leave
entries out of archives without notice, and answer most failures with 500. So this module runs its own programs through
the engine's ``execute``, and uses the engine's routes only to move the bytes of files.
"""

import base64
import contextlib
import functools
import json
import re
import shlex
import weakref
import zlib
from collections.abc import Callable, Iterator
from importlib import resources
from typing import IO, Any

import msgspec
from django.conf import settings

from conversations.engine.client import Download, EngineClient
from conversations.engine.errors import EngineMissing, EngineRefused, EngineUnreachable

PACKAGE = "conversations.engine.inside"
# Each module comes after the modules that it imports.
MODULES = (
    *("paths", "folders", "transfers", "encodings", "repositories", "changes", "diffs"),
    *("archives", "program"),
)
READ_SECONDS = 30
ARCHIVE_SECONDS = 540
RESULT_MAX_BYTES = 64 * 1024 * 1024
_BOOTSTRAP = """\
import base64, json, sys, types, zlib
call = json.loads(base64.b64decode(sys.argv[1]))
package = sys.modules[call["package"]] = types.ModuleType(call["package"])
for name, source in json.loads(zlib.decompress(base64.b64decode(sys.argv[2]))):
    module = types.ModuleType(name)
    sys.modules[call["package"] + "." + name] = module
    setattr(package, name, module)
    exec(compile(source, name, "exec"), module.__dict__)
action = getattr(getattr(package, call["module"]), call["action"])
package.program.run(action, call["root"], call["arguments"])
"""
_ERROR_NUMBER = re.compile(r"\[Errno (\d+)\]")
_UPLOAD_CODES = {
    "28": "disk-full",
    "122": "disk-full",
    "27": "file-too-large",
    "13": "not-permitted",
    "1": "not-permitted",
    "30": "not-permitted",
    "36": "name-too-long",
}


class ActionRefused(Exception):
    """A program in the sandbox refused an action. ``code`` names the cause; ``fields`` belong to the cause.

    The codes are those of ``conversations.engine.inside.program`` and of its modules, ``slow`` for a command that did
    not end in time, and ``trouble`` for a program that failed.
    """

    def __init__(self, code: str, **fields: Any) -> None:
        self.code = code
        self.fields = fields
        super().__init__(f"{code} {fields}")


class TransferredFile:
    """A file that is read from a sandbox. Iterate over its chunks once; what was made for the transfer is removed."""

    def __init__(self, workspace: "Workspace", download: Download, temporary: str | None) -> None:
        self._workspace, self._download, self._temporary = workspace, download, temporary
        self._finalizers: list[weakref.finalize[..., TransferredFile]] = []
        self.size = download.size

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._download
        finally:
            self.close()

    def when_closed(self, release: Callable[[], object]) -> None:
        """Call ``release`` once, when the file is closed or no longer referenced."""
        self._finalizers.append(weakref.finalize(self, release))

    def close(self) -> None:
        """Close the connection and remove temporary files; safe to repeat."""
        try:
            self._download.close()
            temporary, self._temporary = self._temporary, None
            if temporary:
                self._workspace.discard("", temporary)
        finally:
            for release in self._finalizers:
                release()


class Workspace:
    """The files of one sandbox. ``root`` is the path of the workspace in the sandbox.

    Every method may raise ``ActionRefused``, and the exceptions of ``EngineClient``.
    """

    def __init__(self, client: EngineClient, root: str) -> None:
        self._client = client
        self._root = root

    def run(
        self, module: str, action: str, *, seconds: int = 0, **arguments: Any
    ) -> dict[str, Any]:
        """Run a function of ``conversations.engine.inside`` in the sandbox; return its result.

        ``seconds`` is the time that it may take, by default 30.
        """
        seconds = seconds or READ_SECONDS
        command = build_command(self._root, module, action, arguments)
        done = self._client.execute(command, cwd=self._root, timeout=seconds)
        if done.timed_out and done.stderr.startswith("Error executing command: "):
            # The engine could not start a shell in the workspace.
            is_missing = "[Errno 2]" in done.stderr
            raise ActionRefused("no-workspace" if is_missing else "trouble", detail=done.stderr)
        if done.timed_out:
            raise ActionRefused("slow", seconds=seconds)
        if done.exit_code != 0:
            detail = (done.stderr or done.stdout).strip()[-2_000:]
            raise ActionRefused("trouble", detail=detail, exit_code=done.exit_code)
        result = _parse(done.stdout)
        if isinstance(result.get("file"), str):
            result = self._read_result(result["file"], result.get("temporary"))
        if "refused" in result:
            raise ActionRefused(str(result.pop("refused")), **result)
        return result

    def open(self, path: str) -> TransferredFile:
        """Return the content of a file."""
        found = self.run("transfers", "open_file", path=path)
        temporary = found.get("temporary")
        return self.download(str(found.get("path")), temporary or None)

    def download(self, path: str, temporary: str | None) -> TransferredFile:
        """Return the content of a file at an absolute path, and remove the folder ``temporary`` afterwards."""
        try:
            return TransferredFile(self, self._client.download(path), temporary)
        except EngineRefused as error:
            if temporary:
                self.discard("", temporary)
            # The file was replaced after it was checked.
            raise ActionRefused(
                "missing" if isinstance(error, EngineMissing) else "special"
            ) from error

    def write(self, path: str, content: bytes | IO[bytes], *, keep: list[str]) -> dict[str, Any]:
        """Write a file and return its ``path`` in the workspace, its ``place`` and its ``size``.

        ``keep`` are the ``place`` of files that must not be replaced: a file that would replace one of them gets a
        numbered name. Until all bytes are in the sandbox, an existing file is unchanged.
        """
        begun = self.run("transfers", "begin_upload", path=path)
        staged, target = str(begun.get("staged")), str(begun.get("target"))
        temporary = begun.get("temporary")
        try:
            self._client.upload(str(begun.get("upload_to")), content)
            result = self.run("transfers", "end_upload", staged=staged, target=target, keep=keep)
        except EngineRefused as error:
            self.discard(staged, temporary)
            number = _ERROR_NUMBER.search(error.detail)
            code = _UPLOAD_CODES.get(number[1] if number else "", "trouble")
            raise ActionRefused(code, detail=error.detail) from error
        except ActionRefused:
            self.discard(staged, temporary)
            raise
        if temporary:
            self.discard("", temporary)
        return result

    def discard(self, staged: str, temporary: str | None) -> None:
        """Remove temporary files in the sandbox. A failure is not reported: the sandbox may be gone."""
        with contextlib.suppress(ActionRefused, EngineRefused, EngineUnreachable):
            self.run("transfers", "discard", staged=staged, temporary=temporary)

    def _read_result(self, file: str, temporary: Any) -> dict[str, Any]:
        content = bytearray()
        for chunk in self.download(file, temporary if isinstance(temporary, str) else None):
            content += chunk
            if len(content) > RESULT_MAX_BYTES:
                raise ActionRefused("trouble", detail="The result is too large.")
        return _parse(bytes(content))


def build_command(root: str, module: str, action: str, arguments: dict[str, Any]) -> str:
    """Return the shell command that runs an action. All values are base64, so none can have a meaning in a shell."""
    call = {
        "package": PACKAGE,
        "module": module,
        "action": action,
        "root": root,
        "arguments": arguments,
    }
    text = base64.b64encode(json.dumps(call).encode()).decode()
    # The engine's own interpreter, or one that the sandbox has if the engine is installed elsewhere.
    python = shlex.quote(str(settings.ENGINE_DIR / "bin" / "python"))
    return (
        f'python={python}; [ -x "$python" ] || python=$(command -v python3) || exit 127; '
        f'exec "$python" -I -S -c {shlex.quote(_BOOTSTRAP)} {text} {_bundle()}'
    )


@functools.cache
def _bundle() -> str:
    """Return the names and sources of all modules, compressed."""
    folder = resources.files(PACKAGE)
    sources = [(name, (folder / f"{name}.py").read_text(encoding="utf-8")) for name in MODULES]
    return base64.b64encode(zlib.compress(json.dumps(sources).encode(), 9)).decode()


def _parse(text: str | bytes) -> dict[str, Any]:
    try:
        result = msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ActionRefused("trouble", detail="The program printed no result.") from error
    if not isinstance(result, dict):
        raise ActionRefused("trouble", detail="The program printed no result.")
    return result
