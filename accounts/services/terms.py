"""The verbs of the terms of service, of which people accept each version once."""

from django.conf import settings

from accounts.models import TermsAcceptance, User


def has_accepted_terms(*, user: User) -> bool:
    """Whether nothing stands between the user and the server: no terms are set, or they are accepted."""
    version = settings.TERMS_VERSION
    return not version or user.accepted_terms.filter(version=version).exists()


def accept_terms(*, user: User, address: str | None) -> None:
    """Note that the user accepts the version in force. Safe to repeat: the first time stays."""
    if version := settings.TERMS_VERSION:
        TermsAcceptance.objects.get_or_create(
            user=user, version=version, defaults={"address": address}
        )
