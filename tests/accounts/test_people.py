"""The services of users: unique addresses, suspension, activation, e-mail changes, passwords, set-up links."""

from datetime import timedelta

import pytest
from django.core import mail
from django.utils import timezone

from accounts import services
from accounts.models import AuditEntry, EmailChange, Membership, SetupLink, TermsAcceptance, User
from accounts.services import email, passwords, people, terms
from tests.factories.accounts import UserFactory

PASSWORD = "correct horse battery"


def read_token():
    """Return the token of the last mailed link."""
    return mail.outbox[-1].body.partition("/settings/email/")[2].split()[0]


class TestCreateUser:
    def test_address_of_another_user_in_other_case_is_409(self, alice):
        with pytest.raises(people.EmailTaken) as error:
            services.create_user(email=" ALICE@example.com")

        assert (error.value.status, error.value.code) == (409, "email-taken")
        assert User.objects.count() == 1

    def test_user_without_a_name_gets_an_organization_named_after_the_address(self, db):
        user = services.create_user(email="carol@example.com")

        organization = user.personal_organization
        assert organization.name == "carol"
        assert organization.memberships.get().role == Membership.Role.OWNER
        assert not user.has_usable_password()

    def test_weak_password_creates_no_user(self, db):
        with pytest.raises(people.WeakPassword) as error:
            services.create_user(email="carol@example.com", password="12345678")

        assert "too common" in error.value.detail
        assert not User.objects.exists()


class TestSuspension:
    def test_second_administrator_can_be_suspended_and_the_last_cannot(self, db):
        first, second = (UserFactory(is_staff=True, is_superuser=True) for _ in range(2))

        services.suspend_user(user=first)

        with pytest.raises(people.LastAdministrator):
            services.suspend_user(user=second)
        assert list(User.objects.filter(is_active=True)) == [second]

    def test_activation_of_an_active_user_is_not_recorded(self, alice):
        services.suspend_user(user=alice)
        for _ in range(2):
            services.activate_user(user=alice)

        alice.refresh_from_db()
        assert alice.is_active
        assert AuditEntry.objects.filter(action="user.activated").count() == 1


class TestEmailChange:
    def test_expired_link_raises_invalid_email_link(self, alice):
        email.change_email(user=alice, email="new@example.com")
        EmailChange.objects.update(expires_at=timezone.now() - timedelta(seconds=1))

        with pytest.raises(email.InvalidEmailLink):
            email.verify_email(user=alice, token=read_token())

        alice.refresh_from_db()
        assert alice.email == "alice@example.com"

    def test_wrong_token_raises_invalid_email_link_and_keeps_the_request(self, alice):
        email.change_email(user=alice, email="new@example.com")

        with pytest.raises(email.InvalidEmailLink):
            email.verify_email(user=alice, token="x")

        assert email.verify_email(user=alice, token=read_token()).email == "new@example.com"

    def test_verified_change_is_in_the_audit_log(self, alice):
        email.change_email(user=alice, email="new@example.com")
        email.verify_email(user=alice, token=read_token())

        entry = AuditEntry.objects.get(action="user.email_changed")
        assert entry.before == {"email": "alice@example.com"}
        assert entry.after == {"email": "new@example.com"}

    def test_own_address_in_other_case_can_be_verified(self, alice):
        email.change_email(user=alice, email="Alice@Example.com")

        assert email.verify_email(user=alice, token=read_token()).email == "Alice@Example.com"


class TestChangePassword:
    def test_password_similar_to_the_address_is_refused(self, alice):
        with pytest.raises(people.WeakPassword) as error:
            passwords.change_password(user=alice, current=PASSWORD, new="alice@example.com")

        assert "too similar" in error.value.detail
        assert User.objects.get(pk=alice.pk).check_password(PASSWORD)

    def test_user_without_a_password_raises_wrong_password(self, alice):
        alice.set_unusable_password()
        alice.save()

        with pytest.raises(passwords.WrongPassword):
            passwords.change_password(user=alice, current="", new="another battery staple")

        assert not User.objects.get(pk=alice.pk).has_usable_password()


class TestSetupLink:
    def use(self, path, **fields):
        form = {"email": "root@example.com", "password": PASSWORD} | fields
        return services.use_setup_link(token=path.removeprefix("/setup/"), **form)

    def test_expired_link_creates_no_user(self, db):
        path = services.create_setup_link()
        SetupLink.objects.update(expires_at=timezone.now() - timedelta(seconds=1))

        with pytest.raises(services.InvalidSetupLink):
            self.use(path)

        assert not User.objects.exists()

    def test_existing_address_leaves_the_link_unused(self, alice):
        path = services.create_setup_link()

        with pytest.raises(people.EmailTaken):
            self.use(path, email="alice@example.com")

        assert self.use(path).is_superuser

    def test_each_of_several_links_finds_its_own_row(self, db):
        first, second = (services.create_setup_link(email=f"{n}@example.com") for n in "ab")

        emails = [
            services.find_setup_link(p.removeprefix("/setup/")).email for p in (second, first)
        ]

        assert emails == ["b@example.com", "a@example.com"]


class TestTerms:
    def test_terms_without_a_version_are_accepted_and_store_nothing(self, alice, settings):
        settings.TERMS_VERSION = ""

        terms.accept_terms(user=alice, address="192.0.2.1")

        assert terms.has_accepted_terms(user=alice)
        assert not TermsAcceptance.objects.exists()

    def test_second_acceptance_keeps_the_first_address(self, alice, settings):
        settings.TERMS_VERSION = "2026-11"
        assert not terms.has_accepted_terms(user=alice)

        for address in ("192.0.2.1", "192.0.2.2"):
            terms.accept_terms(user=alice, address=address)

        assert TermsAcceptance.objects.get().address == "192.0.2.1"
        entry = AuditEntry.objects.get(action="terms.accepted")
        assert (entry.subject_id, entry.after) == (str(alice.pk), {"version": "2026-11"})
