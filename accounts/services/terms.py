"""The verbs of the terms of service, of which people accept each version once."""

from django.conf import settings
from django.urls import reverse
from django.utils.http import urlencode

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


def target_after_sign_in(*, user: User, target: str) -> str:
    """Where to go on to: the terms first, if they have not been accepted."""
    if has_accepted_terms(user=user):
        return target
    return f"{reverse('accept-tos')}?{urlencode({'redirect_url': target})}"
