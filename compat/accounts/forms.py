"""The form of the page with the terms of service."""

from django import forms

from lib.forms import PageForm


class TermsForm(PageForm):
    """The form that accepts the terms of service. ``redirect_url`` is the page to show afterwards.

    Every value is valid, because the view replaces the URL of another site by the home page.
    """

    redirect_url = forms.Field(required=False)
