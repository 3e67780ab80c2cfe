"""The management commands of accounts: set-up links, API keys, users."""

import io
import re

import pytest
from django.core.management import CommandError, call_command

from accounts import services
from accounts.models import ApiKey, AuditEntry, SetupLink, User


def run_command(name, *args):
    """Run a command and return its output."""
    out = io.StringIO()
    call_command(name, *args, stdout=out)
    return out.getvalue()


class TestCreateSetupLink:
    def test_command_prints_the_address_of_a_valid_link(self, db):
        printed = run_command("create_setup_link", "--email", "new@example.com")

        (token,) = re.fullmatch(r"http://testserver/setup/(.+)\n", printed).groups()
        assert services.find_setup_link(token).email == "new@example.com"

    def test_malformed_address_is_an_error(self, db):
        with pytest.raises(CommandError, match="must be an e-mail address"):
            run_command("create_setup_link", "--email", "x")
        assert not SetupLink.objects.exists()


class TestCreateApiKey:
    def test_command_prints_only_the_key(self, alice):
        printed = run_command("create_api_key", "--email", "ALICE@example.com", "--name", "cli")

        assert re.fullmatch(r"oh_[0-9a-f]{12}\.[\w-]{43}\n", printed)
        assert services.authenticate_api_key(printed.strip()).user == alice

    def test_options_set_scopes_and_days(self, alice):
        run_command(
            "create_api_key",
            "--email",
            alice.email,
            "--name",
            "cli",
            "--scope",
            "account.view",
            "--scope",
            "usage.view",
            "--days",
            "3",
        )

        key = ApiKey.objects.get()
        assert key.scopes == ["account.view", "usage.view"]
        assert (key.expires_at - key.created_at).days in (2, 3)

    @pytest.mark.parametrize(
        ("args", "sentence"),
        [
            (
                ["--email", "no@example.com", "--name", "x"],
                "There is no user with the e-mail address no@example.com",
            ),
            (
                ["--email", "alice@example.com", "--name", "x", "--scope", "fly"],
                "There is no permission 'fly'",
            ),
            (["--email", "alice@example.com", "--name", "x", "--days", "0"], "--days must be"),
            (["--email", "alice@example.com", "--name", " "], "--name must have"),
            (["--email", "alice@example.com", "--name", "x" * 81], "--name must have"),
        ],
    )
    def test_invalid_argument_is_an_error_with_a_sentence(self, alice, args, sentence):
        with pytest.raises(CommandError, match=re.escape(sentence)):
            run_command("create_api_key", *args)
        assert not ApiKey.objects.exists()


class TestCreateUser:
    def test_password_comes_from_the_environment(self, db, monkeypatch):
        monkeypatch.setenv("OH_PASSWORD", "correct horse battery")

        run_command("create_user", "--email", "new@example.com", "--name", "New", "--staff")

        user = User.objects.get()
        assert user.check_password("correct horse battery")
        assert (user.name, user.is_staff, user.is_superuser) == ("New", True, False)

    def test_user_without_a_password_cannot_sign_in_with_one(self, db, monkeypatch):
        monkeypatch.delenv("OH_PASSWORD", raising=False)
        monkeypatch.setattr("sys.stdin", io.StringIO())

        run_command("create_user", "--email", "new@example.com", "--name", "New")

        assert not User.objects.get().has_usable_password()

    def test_terminal_is_prompted_for_the_password_twice(self, db, monkeypatch):
        class Terminal(io.StringIO):
            def isatty(self):
                return True

        monkeypatch.delenv("OH_PASSWORD", raising=False)
        monkeypatch.setattr("sys.stdin", Terminal())
        answers = iter(["correct horse battery", "correct horse battery", "one", "two"])
        monkeypatch.setattr("getpass.getpass", lambda _prompt: next(answers))

        run_command("create_user", "--email", "new@example.com")

        assert User.objects.get().check_password("correct horse battery")
        with pytest.raises(CommandError, match="are different"):
            run_command("create_user", "--email", "other@example.com")

    @pytest.mark.parametrize(
        "command", [("create_user", "--administrator"), ("createsuperuser",)], ids=lambda c: c[0]
    )
    def test_administrator_has_an_organization_and_an_audit_entry(self, db, monkeypatch, command):
        monkeypatch.setenv("OH_PASSWORD", "correct horse battery")

        run_command(*command, "--email", "root@example.com")

        user = User.objects.get()
        assert (user.is_staff, user.is_superuser) == (True, True)
        assert user.personal_organization.memberships.get().role == "owner"
        entry = AuditEntry.objects.get(action="user.created")
        assert entry.after == {"email": "root@example.com", "is_staff": True, "is_superuser": True}

    @pytest.mark.parametrize(
        ("email", "password", "sentence"),
        [
            ("Alice@Example.com", "correct horse battery", "already exists"),
            ("x", "correct horse battery", "not an e-mail address"),
            ("new@example.com", "short", "too short"),
        ],
    )
    def test_invalid_address_or_password_is_an_error(
        self, alice, monkeypatch, email, password, sentence
    ):
        monkeypatch.setenv("OH_PASSWORD", password)

        with pytest.raises(CommandError, match=sentence):
            run_command("create_user", "--email", email)


class TestRevokeApiKeys:
    @pytest.fixture
    def keys(self, alice, charlie):
        return [
            services.issue_api_key(user=user, name=name)[0]
            for user, name in ((alice, "one"), (alice, "two"), (charlie, "three"))
        ]

    def revoked_names(self):
        return set(ApiKey.objects.exclude(revoked_at=None).values_list("name", flat=True))

    def test_prefix_revokes_its_key(self, keys):
        assert "Revoked 1 key." in run_command("revoke_api_keys", "--prefix", keys[0].prefix)
        assert self.revoked_names() == {"one"}

    def test_whole_key_as_prefix_revokes_that_key(self, keys):
        run_command("revoke_api_keys", "--prefix", f"{keys[2].prefix}.secret")
        assert self.revoked_names() == {"three"}

    def test_email_revokes_the_keys_of_the_user_once(self, keys):
        assert "Revoked 2 keys." in run_command("revoke_api_keys", "--email", "alice@example.com")
        assert "Revoked 0 keys." in run_command("revoke_api_keys", "--email", "alice@example.com")
        assert self.revoked_names() == {"one", "two"}

    def test_each_revoked_key_has_one_audit_entry(self, keys):
        run_command("revoke_api_keys", "--email", "alice@example.com")
        run_command("revoke_api_keys", "--email", "alice@example.com")

        entries = AuditEntry.objects.filter(action="api_key.revoked")
        assert sorted(entry.subject_id for entry in entries) == sorted(
            str(key.pk) for key in keys[:2]
        )

    def test_dry_run_prints_the_number_and_revokes_no_key(self, keys):
        assert "2 keys would be revoked." in run_command(
            "revoke_api_keys", "--email", "alice@example.com", "--dry-run"
        )
        assert self.revoked_names() == set()

    @pytest.mark.parametrize(
        "args", [["--prefix", "oh_0"], ["--prefix", ""], ["--email", "no@example.com"]]
    )
    def test_unknown_prefix_or_user_is_an_error_and_revokes_no_key(self, keys, args):
        with pytest.raises(CommandError, match=r"There is no API key|There is no user"):
            run_command("revoke_api_keys", *args)
        assert self.revoked_names() == set()
