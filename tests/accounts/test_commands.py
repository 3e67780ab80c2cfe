import io
import re

import pytest
from django.core.management import CommandError, call_command

from accounts import services
from accounts.models import ApiKey, AuditEntry, SetupLink, User


def run(name, *args):
    out = io.StringIO()
    call_command(name, *args, stdout=out)
    return out.getvalue()


class TestCreateSetupLink:
    def test_prints_an_address_that_works(self, db):
        printed = run("create_setup_link", "--email", "new@example.com")

        (token,) = re.fullmatch(r"http://testserver/setup/(.+)\n", printed).groups()
        assert services.find_setup_link(token).email == "new@example.com"

    def test_odd_address_is_refused(self, db):
        with pytest.raises(CommandError, match="must be an e-mail address"):
            run("create_setup_link", "--email", "x")
        assert not SetupLink.objects.exists()


class TestCreateApiKey:
    def test_prints_the_key_alone(self, alice):
        printed = run("create_api_key", "--email", "ALICE@example.com", "--name", "cli")

        assert re.fullmatch(r"oh_[0-9a-f]{12}\.[\w-]{43}\n", printed)
        assert services.authenticate_api_key(printed.strip()).user == alice

    def test_takes_scopes_and_days(self, alice):
        run(
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
    def test_refusals_are_sentences(self, alice, args, sentence):
        with pytest.raises(CommandError, match=re.escape(sentence)):
            run("create_api_key", *args)
        assert not ApiKey.objects.exists()


class TestCreateUser:
    def test_password_comes_from_the_environment(self, db, monkeypatch):
        monkeypatch.setenv("OH_PASSWORD", "correct horse battery")

        run("create_user", "--email", "new@example.com", "--name", "New", "--staff")

        user = User.objects.get()
        assert user.check_password("correct horse battery")
        assert (user.name, user.is_staff, user.is_superuser) == ("New", True, False)

    def test_without_a_password_nobody_signs_in(self, db, monkeypatch):
        monkeypatch.delenv("OH_PASSWORD", raising=False)
        monkeypatch.setattr("sys.stdin", io.StringIO())

        run("create_user", "--email", "new@example.com", "--name", "New")

        assert not User.objects.get().has_usable_password()

    def test_password_is_asked_for_at_a_terminal(self, db, monkeypatch):
        class Terminal(io.StringIO):
            def isatty(self):
                return True

        monkeypatch.delenv("OH_PASSWORD", raising=False)
        monkeypatch.setattr("sys.stdin", Terminal())
        answers = iter(["correct horse battery", "correct horse battery", "one", "two"])
        monkeypatch.setattr("getpass.getpass", lambda _prompt: next(answers))

        run("create_user", "--email", "new@example.com")

        assert User.objects.get().check_password("correct horse battery")
        with pytest.raises(CommandError, match="are different"):
            run("create_user", "--email", "other@example.com")

    @pytest.mark.parametrize(
        "command", [("create_user", "--administrator"), ("createsuperuser",)], ids=lambda c: c[0]
    )
    def test_administrator_has_an_organization_and_an_audit_entry(self, db, monkeypatch, command):
        monkeypatch.setenv("OH_PASSWORD", "correct horse battery")

        run(*command, "--email", "root@example.com")

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
    def test_refusals_are_sentences(self, alice, monkeypatch, email, password, sentence):
        monkeypatch.setenv("OH_PASSWORD", password)

        with pytest.raises(CommandError, match=sentence):
            run("create_user", "--email", email)


class TestRevokeApiKeys:
    @pytest.fixture
    def keys(self, alice, charlie):
        return [
            services.issue_api_key(user=user, name=name)[0]
            for user, name in ((alice, "one"), (alice, "two"), (charlie, "three"))
        ]

    def revoked(self):
        return set(ApiKey.objects.exclude(revoked_at=None).values_list("name", flat=True))

    def test_by_prefix(self, keys):
        assert "Revoked 1 key." in run("revoke_api_keys", "--prefix", keys[0].prefix)
        assert self.revoked() == {"one"}

    def test_by_a_leaked_key_as_it_was_found(self, keys):
        run("revoke_api_keys", "--prefix", f"{keys[2].prefix}.whatever")
        assert self.revoked() == {"three"}

    def test_by_owner_and_safe_to_repeat(self, keys):
        assert "Revoked 2 keys." in run("revoke_api_keys", "--email", "alice@example.com")
        assert "Revoked 0 keys." in run("revoke_api_keys", "--email", "alice@example.com")
        assert self.revoked() == {"one", "two"}

    def test_each_key_has_its_entry_in_the_audit_log(self, keys):
        run("revoke_api_keys", "--email", "alice@example.com")
        run("revoke_api_keys", "--email", "alice@example.com")

        entries = AuditEntry.objects.filter(action="api_key.revoked")
        assert sorted(entry.subject_id for entry in entries) == sorted(
            str(key.pk) for key in keys[:2]
        )

    def test_dry_run_revokes_none(self, keys):
        assert "2 keys would be revoked." in run(
            "revoke_api_keys", "--email", "alice@example.com", "--dry-run"
        )
        assert self.revoked() == set()

    @pytest.mark.parametrize(
        "args", [["--prefix", "oh_0"], ["--prefix", ""], ["--email", "no@example.com"]]
    )
    def test_refusals_are_sentences(self, keys, args):
        with pytest.raises(CommandError, match=r"There is no API key|There is no user"):
            run("revoke_api_keys", *args)
        assert self.revoked() == set()
