"""The second factor for signing in with a password: a secret for an authenticator app, and recovery codes."""

from typing import ClassVar

from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7

from lib import crypto


class SecondFactor(models.Model):
    """One user's TOTP secret. Sign-in asks for a code only after ``confirmed_at`` is set.

    ``last_used_step`` is the latest time step whose code was used. A time step has 30 seconds; steps are counted from
    1970. Codes of this step and of earlier steps are refused, so no code works twice.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.OneToOneField("accounts.User", models.CASCADE, related_name="second_factor")
    sealed_secret = models.BinaryField(editable=False)
    last_used_step = models.BigIntegerField(default=0, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    confirmed_at = models.DateTimeField(null=True, editable=False)

    SEALED_KINDS: ClassVar = {
        "sealed_secret": crypto.SealedKind(
            "the stored secret of the authenticator app",
            "Sign in with a recovery code, turn the second factor off with another one and set it up again. Without "
            "recovery codes, ask an administrator of this server to reset your second factor.",
        )
    }
    is_personal = True
    """The row belongs to a user and to no organization."""

    def __str__(self) -> str:
        return f"second factor of {self.user_id}"

    @property
    def secret(self) -> str:
        """The plain secret in Base32, the form that authenticator apps read."""
        return crypto.open_sealed(self.sealed_secret, bound_to=self._binding)

    @secret.setter
    def secret(self, plain: str) -> None:
        self.sealed_secret = crypto.seal(plain, bound_to=self._binding)

    @property
    def is_readable(self) -> bool:
        """Whether the secret can be decrypted."""
        try:
            _ = self.secret
        except crypto.Undecryptable:
            return False
        return True

    @property
    def _binding(self) -> str:
        return f"accounts_secondfactor.sealed_secret:{self.pk}"


class RecoveryCode(models.Model):
    """A single-use code that replaces a code of the authenticator app. Only its HMAC is stored."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    factor = models.ForeignKey(
        "accounts.SecondFactor", models.CASCADE, related_name="recovery_codes"
    )
    digest = models.CharField(max_length=64, editable=False)
    pepper_id = models.CharField(max_length=16, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    used_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["factor", "digest"], name="recovery_code_unique")
        ]

    def __str__(self) -> str:
        return f"recovery code {self.pk}"
