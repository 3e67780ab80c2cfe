"""The form of the page with the terms of service."""

from django import forms

from lib.forms import PageForm


class TermsForm(PageForm):
    """The form that accepts the terms of service. ``redirect_url`` is the page to show afterwards.

    Every ``redirect_url`` is valid: if it is on another site, the view shows the home page instead.
    """

    redirect_url = forms.Field(required=False)
