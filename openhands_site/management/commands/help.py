"""The ``help`` command: list the operators' commands in groups, with one line each."""

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

GROUPS: dict[str, dict[str, str]] = {
    "Set-up and start": {
        "quickstart": "start everything on this machine (`make run` does this)",
        "doctor": "check settings, database, Redis, engine and security",
        "migrate": "create or update the tables of the database",
        "install_engine": "install the agent engine",
        "check": "check the settings (with --deploy: for production)",
    },
    "Roles, which run until they are stopped": {
        "run_web": "serve HTTP and WebSockets",
        "run_realtime": "serve only WebSockets and streams",
        "run_worker": "run background jobs",
        "run_conversation_manager": "follow the engines and store their events",
        "run_grpc": "serve the gRPC API",
    },
    "People and keys": {
        "create_setup_link": "print a link that creates the first administrator",
        "create_user": "create a user, a staff user or an administrator",
        "createsuperuser": "create an administrator",
        "changepassword": "set the password of a user",
        "reset_second_factor": "remove the second factor of a user",
        "create_api_key": "create an API key and print it",
        "revoke_api_keys": "revoke one API key, or all keys of a user",
        "map_oidc_claims": "preview or apply the claim rules of an identity provider",
    },
    "Operation": {
        "maintenance": "turn maintenance mode on or off, plan it, or print its state",
        "rolling_restart": "restart the processes of this machine one by one",
    },
    "Security and data": {
        "rotate_encryption_key": "encrypt all stored secrets with a new key",
        "audit_encrypted_fields": "find stored secrets that cannot be decrypted",
        "verify_audit_chain": "find changed entries of the audit log",
        "prune_events": "remove old events of finished conversations",
    },
}
"""The operators' commands by group, each with one line. All other commands are for developers."""


class Command(BaseCommand):
    help = "List the operators' commands, or describe one command."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", nargs="?", help="the command to describe")
        parser.add_argument(
            "--all", action="store_true", help="list every command, also those for developers"
        )
        parser.add_argument("--commands", action="store_true", help="print only the names")

    def handle(self, *args: Any, name: str | None = None, **options: Any) -> None:
        if name:
            self._describe(name)
        elif options["commands"]:
            self.stdout.write("\n".join(sorted(_names())))
        else:
            self.stdout.write(_format(_developer_names() if options["all"] else []))

    def _describe(self, name: str) -> None:
        from django.core.management import load_command_class

        from lib import env

        names = _names()
        if name not in names:
            sentence = f"There is no command {name!r}. `manage.py help` lists the commands."
            if not _has_settings():
                sentence += f" The settings could not be read. {env.explain_missing()}"
            raise CommandError(sentence)
        load_command_class(names[name], name).print_help(sys.argv[0], name)


def _format(developers: list[str]) -> str:
    lines = ["Commands of this server. `manage.py help COMMAND` describes one of them."]
    for group, commands in GROUPS.items():
        lines += ["", group]
        lines += [f"  {name:<26}{sentence}" for name, sentence in commands.items()]
    if developers:
        lines += ["", "For developers", *(f"  {name}" for name in developers)]
    else:
        lines += ["", "`manage.py help --all` also lists the commands for developers."]
    return "\n".join(lines)


def _developer_names() -> list[str]:
    listed = {name for commands in GROUPS.values() for name in commands}
    return sorted(_names().keys() - listed)


def _names() -> dict[str, Any]:
    """Return the app or instance of each command by name. Without valid settings, the built-in and listed ones."""
    from django.core.management import find_commands, get_commands

    if _has_settings():
        return {**get_commands()}
    # This command needs no settings itself, and neither does the description of ``quickstart`` and ``doctor``.
    names: dict[str, Any] = dict.fromkeys(find_commands(_core()), "django.core")
    return names | dict.fromkeys(("quickstart", "doctor"), "openhands_site")


def _core() -> str:
    import django.core.management

    return django.core.management.__path__[0]


def _has_settings() -> bool:
    import django
    from django.apps import apps
    from django.core.exceptions import ImproperlyConfigured

    try:
        if not apps.ready:
            django.setup()
    except ImproperlyConfigured:
        return False
    return True
