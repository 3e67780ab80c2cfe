"""URL patterns of the page "Git hosts"."""

from django.urls import path

from integrations.web import git_hosts

urlpatterns = [
    path("settings/git-hosts", git_hosts.git_hosts, name="git-hosts"),
]
