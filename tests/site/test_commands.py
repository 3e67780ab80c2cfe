"""All commands of `manage.py`: odd arguments, the list of commands, ``--json`` and ``--dry-run``."""

import io
import json
import os
import re
import subprocess
import sys

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command, get_commands, load_command_class

from accounts import services
from accounts.models import ApiKey, AuditEntry
from lib.commands import OperatorCommand
from openhands_site.management.commands import help as listing

APPS = {"openhands_site", "accounts", "conversations", "billing", "integrations", "compat"}
OWN = sorted(name for name, app in get_commands().items() if app in APPS)
UNTIL_STOPPED = {"quickstart", "run_web", "run_realtime", "run_worker", "run_grpc"} | {
    "run_conversation_manager"
}
REQUIRED = {
    "create_api_key": ["--email", "alice@example.com", "--name", "cli"],
    "create_user": ["--email", "new@example.com"],
    "createsuperuser": ["--email", "new@example.com"],
    "grpc_stubs": ["--check"],
    "install_engine": ["--dry-run"],
    "maintenance": ["status"],
    "map_oidc_claims": ["keycloak"],
    "openapi": ["--check"],
    "prune_events": ["--older-than-days", "30", "--reason", "test", "--dry-run"],
    "reset_second_factor": ["--email", "alice@example.com", "--reason", "lost"],
    "revoke_api_keys": ["--email", "alice@example.com", "--dry-run"],
    "rolling_restart": ["--dry-run"],
}
ODD = [
    "",
    " ",
    "text",
    "-1",
    "0",
    "1e9",
    "nan",
    "99999999999999999999999",
    "00000000-0000-0000-0000-000000000000",
    "018f3c6e",
    "yesterday",
    "2001-01-01T00:00Z",
    "a\0b",
    "lone \udcff surrogate",
    "line\nbreak \x1b[31m",
    "ü" * 5_000,
    "/nonexistent/folder",
    "/",
]


def options_of(name) -> list[str]:
    """Return the options with a value of a command, without the options of every Django command."""
    parser = load_command_class(get_commands()[name], name).create_parser("manage.py", name)
    shared = {"version", "verbosity", "settings", "pythonpath", "help"}
    return [
        action.option_strings[-1] if action.option_strings else ""
        for action in parser._actions
        if action.dest not in shared and action.nargs != 0
    ]


# The document that `openapi` compares takes seconds.
CASES = [(name, option) for name in OWN if name != "openapi" for option in options_of(name)]


@pytest.fixture(autouse=True)
def working_folder(monkeypatch, tmp_path):
    """Let commands write the files that odd arguments name into a folder of the test."""
    monkeypatch.chdir(tmp_path)


def run(name, *arguments) -> str:
    out = io.StringIO()
    call_command(name, *arguments, stdout=out, stderr=io.StringIO())
    return out.getvalue()


@pytest.mark.parametrize(("name", "option"), CASES, ids=[f"{n} {o}" for n, o in CASES])
def test_odd_value_of_any_option_is_accepted_or_refused_with_a_sentence(alice, name, option):
    for value in ODD:
        if option:
            arguments = [*REQUIRED.get(name, []), f"{option}={value}"]
        else:
            arguments = [*REQUIRED.get(name, [])[1:], "--", value]
        try:
            if name in UNTIL_STOPPED:
                command = load_command_class(get_commands()[name], name)
                command._called_from_command_line = False
                command.create_parser("manage.py", name).parse_args(arguments)
            else:
                run(name, *arguments)
        except (CommandError, SystemExit) as error:
            text = str(error)
            assert re.search(r"[a-z]{2,} [a-zA-Z]{2,}", text), (value, text)
            assert not re.search(r"invalid \w+ value", text), (value, text)
            assert "Traceback" not in text


@pytest.mark.parametrize("name", [name for name in OWN if name not in UNTIL_STOPPED])
@pytest.mark.parametrize("argument", ["--absent", "\udcff", "x\0y"])
def test_unknown_argument_is_refused_by_every_command(db, name, argument):
    if (name, argument) in {("maintenance", ""), ("map_oidc_claims", "")}:
        return
    with pytest.raises(
        CommandError, match=r"unrecognized|invalid choice|argument|There is no command"
    ):
        run(name, *REQUIRED.get(name, []), argument)


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--days", "9999"], "--days must be at most 365, the limit of this server"),
            (["--days", "366"], "--days must be at most 365"),
            (["--days", "ten"], "enter a whole number"),
            (["--name", "a\udcffb"], "--name contains bytes or control characters"),
        ],
    )
    def test_key_with_an_impossible_value_is_not_created(self, alice, arguments, sentence):
        with pytest.raises(CommandError, match=re.escape(sentence)):
            run("create_api_key", "--email", alice.email, "--name", "cli", *arguments)
        assert not ApiKey.objects.exists()

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["plan", "--at", "yesterday"], "a date and a time with a time zone, such as 2030"),
            (["plan", "--at", "2030-01-31T22:00"], "needs a time zone"),
            (["plan", "--at", "2001-01-01T00:00Z"], "--at must be in the future"),
            (["on", "--at", "2100-01-01T00:00Z"], "--at is only for the action plan"),
            (["on", "--sentence", "x" * 301], "--sentence must have at most 300 characters"),
            (["on", "--retry-after", "0"], "a whole number from 1 to 604800, not '0'"),
        ],
    )
    def test_maintenance_refuses_instead_of_correcting(self, db, arguments, sentence):
        with pytest.raises(CommandError, match=re.escape(sentence)):
            run("maintenance", *arguments)
        assert not AuditEntry.objects.filter(action__startswith="maintenance").exists()

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("prune_events", ["--older-than-days", "-5", "--reason", "x"]),
            ("rotate_encryption_key", ["--batch", "0"]),
            ("rotate_encryption_key", ["--pause", "-1"]),
            ("run_grpc", ["--port", "99999"]),
            ("run_web", ["--port", "-1"]),
            ("run_worker", ["--grace", "nan"]),
        ],
    )
    def test_number_outside_its_range_is_not_corrected_silently(self, db, name, arguments):
        with pytest.raises(
            CommandError, match=r"enter a (whole number|number|port) .*from \d+ to \d+, not"
        ):
            run(name, *arguments)

    def test_unknown_organization_has_no_complete_chain(self, db):
        with pytest.raises(CommandError, match="There is no organization with the id 0000"):
            run("verify_audit_chain", "--organization", "00000000-0000-0000-0000-000000000001")


class TestPasswords:
    def test_user_without_a_password_gets_the_next_step(self, db, monkeypatch):
        monkeypatch.delenv("OH_PASSWORD", raising=False)

        printed = run("create_user", "--email", "new@example.com")

        assert "nobody can sign in with this account yet" in printed
        assert "`manage.py changepassword new@example.com`" in printed

    def test_user_with_a_password_gets_no_warning(self, db, monkeypatch):
        monkeypatch.setenv("OH_PASSWORD", "correct horse battery")

        assert run("create_user", "--email", "new@example.com") == (
            "Created the user new@example.com.\n"
        )


WITH_JSON = sorted(
    name
    for name in OWN
    if "--json"
    in load_command_class(get_commands()[name], name).create_parser("x", name).format_help()
)
WITHOUT_JSON = {"openapi", "grpc_stubs", "help"} | UNTIL_STOPPED - {"quickstart"}


def test_every_command_that_prints_data_has_json():
    assert set(WITH_JSON) == set(OWN) - WITHOUT_JSON


@pytest.mark.parametrize("name", [n for n in WITH_JSON if n not in {"quickstart", "doctor"}])
def test_json_output_is_one_json_value(alice, name):
    if name in {"map_oidc_claims", "reset_second_factor"}:  # no provider, no second factor
        out = io.StringIO()
        with pytest.raises(CommandError):
            call_command(name, "--json", *REQUIRED[name], stdout=out)
        assert set(json.loads(out.getvalue())) == {"error"}
        return

    printed = run(name, "--json", *REQUIRED.get(name, []))

    # `rolling_restart` prints one object for each process, and there is none.
    assert printed == "" if name == "rolling_restart" else isinstance(json.loads(printed), dict)


def test_error_with_json_is_a_json_object_with_the_sentence(db):
    out = io.StringIO()

    with pytest.raises(CommandError, match="There is no user"):
        call_command(
            "create_api_key", "--json", "--email", "no@example.com", "--name", "x", stdout=out
        )

    assert json.loads(out.getvalue())["error"].startswith("There is no user with the e-mail")


class TestDryRuns:
    def test_every_command_that_changes_many_things_has_a_dry_run(self):
        assert {
            name
            for name in OWN
            if "--dry-run"
            in load_command_class(get_commands()[name], name).create_parser("x", name).format_help()
        } >= {
            "install_engine",
            "maintenance",
            "map_oidc_claims",
            "prune_events",
            "revoke_api_keys",
            "rolling_restart",
            "rotate_encryption_key",
            "verify_audit_chain",
        }

    def test_maintenance_prints_the_new_state_and_changes_nothing(self, db):
        printed = json.loads(
            run("maintenance", "on", "--sentence", "Back soon", "--dry-run", "--json")
        )

        assert (printed["is_on"], printed["sentence"], printed["dry_run"]) == (
            True,
            "Back soon",
            True,
        )
        assert json.loads(run("maintenance", "status", "--json"))["is_on"] is False

    def test_keys_stay_usable(self, alice):
        services.issue_api_key(user=alice, name="cli")

        printed = json.loads(run("revoke_api_keys", "--email", alice.email, "--dry-run", "--json"))

        assert [key["name"] for key in printed["keys"]] == ["cli"]
        assert ApiKey.objects.usable().count() == 1


def test_operators_commands_share_one_base():
    own = {name: load_command_class(get_commands()[name], name) for name in WITH_JSON}
    copies = {name for name, command in own.items() if not isinstance(command, OperatorCommand)}

    assert copies == {"doctor", "quickstart", "rolling_restart"}, "their JSON has another form"


class TestHelp:
    def test_every_command_of_ours_is_listed_in_one_group_or_for_developers(self):
        listed = [name for commands in listing.GROUPS.values() for name in commands]

        assert sorted(listed) == sorted(set(listed))
        assert set(listed) <= set(get_commands())
        assert set(OWN) - set(listed) == {"openapi", "grpc_stubs", "help"}

    def test_list_has_one_line_per_command_and_none_for_developers(self):
        printed = run("help")

        for commands in listing.GROUPS.values():
            for name, sentence in commands.items():
                assert (
                    len(re.findall(rf"^  {name} +{re.escape(sentence)}$", printed, re.MULTILINE))
                    == 1
                )
        for name in ("openapi", "grpc_stubs", "generateschema", "startapp", "inspectdb"):
            assert name not in printed

    def test_all_commands_are_listed_on_request_and_can_be_described(self, capsys):
        assert re.findall(r"^  (openapi|startapp)$", run("help", "--all"), re.MULTILINE) == [
            "openapi",
            "startapp",
        ]
        run("help", "create_api_key")
        assert "--days" in capsys.readouterr().out
        run("help", "grpc_stubs")
        assert "--check" in capsys.readouterr().out

    def test_unknown_command_is_a_sentence(self):
        with pytest.raises(CommandError, match="There is no command 'absent'"):
            run("help", "absent")

    def test_list_needs_no_settings(self, tmp_path):
        program = [sys.executable, str(settings.BASE_DIR / "manage.py")]
        environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path)}

        result = subprocess.run(
            program, env=environment, capture_output=True, text=True, check=False
        )

        assert (result.returncode, result.stderr) == (0, "")
        assert "People and keys" in result.stdout
