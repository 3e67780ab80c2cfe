"""Forms of a user's own account: sign-in, setup, password, second factor and devices."""

from django import forms

from lib.forms import TEXT_CODES, IdField, OptionField, PageForm, TextField

WRONG_CREDENTIALS = "The e-mail address or the password is wrong."
_WRONG_CREDENTIALS = dict.fromkeys(TEXT_CODES, WRONG_CREDENTIALS)
EMAIL_LENGTH = 254
PASSWORD_LENGTH = 1_000
CODE_LENGTH = 40


class NextForm(PageForm):
    """The URL to open afterwards. Every value is valid here, because the view replaces URLs of other sites."""

    next = forms.Field(required=False)


class SignInForm(NextForm):
    """E-mail address and password. All errors have the same text, which does not reveal whether an account exists."""

    email = TextField(label="E-mail", max_length=EMAIL_LENGTH, error_messages=_WRONG_CREDENTIALS)
    password = TextField(
        label="Password", max_length=PASSWORD_LENGTH, strip=False, error_messages=_WRONG_CREDENTIALS
    )


class SetupForm(PageForm):
    """The account of the first administrator."""

    refused_status = 400
    email = TextField(label="E-mail", max_length=EMAIL_LENGTH)
    name = TextField(label="Name", max_length=120, required=False)
    password = TextField(label="Password", max_length=PASSWORD_LENGTH, strip=False)


class PasswordForm(PageForm):
    """The current password and a new password."""

    current = TextField(label="Current password", max_length=PASSWORD_LENGTH, strip=False)
    new = TextField(label="New password", max_length=PASSWORD_LENGTH, strip=False)


class SecondStepForm(NextForm):
    """The code of a second factor. An empty code is valid here, so that the view counts it as a wrong code."""

    code = TextField(label="Code", max_length=CODE_LENGTH, required=False, strip=False)


class SecondFactorForm(PageForm):
    """One step in turning a second factor on or off. The services reject empty passwords and codes."""

    act = OptionField(choices=[("begin", "Set up"), ("confirm", "Turn on"), ("remove", "Turn off")])
    password = TextField(
        label="Your password", max_length=PASSWORD_LENGTH, required=False, strip=False
    )
    code = TextField(label="Code", max_length=CODE_LENGTH, required=False, strip=False)


class UserCodeForm(PageForm):
    """The code that a device shows, entered by the user or taken from the URL."""

    user_code = TextField(label="Code shown on your device", max_length=40)


class DeviceForm(UserCodeForm):
    """The decision about a device's request. Without a decision, the page shows the request."""

    decision = OptionField(choices=[("approve", "Approve"), ("deny", "Deny")], required=False)
    organization = IdField(required=False)
