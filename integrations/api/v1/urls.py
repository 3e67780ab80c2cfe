"""REST addresses of Git hosts, below ``/api/v1/``."""

from django.urls import path

from integrations.api.v1 import views

HOST = "integrations/<slug:provider>"
urlpatterns = [
    path("provider-tokens", views.ProviderTokensView.as_view(), name="provider-token-list"),
    path(
        "provider-tokens/<slug:provider>", views.ProviderTokenView.as_view(), name="provider-token"
    ),
    path(f"{HOST}/user", views.GitUserView.as_view(), name="git-user"),
    path(f"{HOST}/installations", views.InstallationsView.as_view(), name="git-installations"),
    path(f"{HOST}/repositories", views.RepositoriesView.as_view(), name="git-repositories"),
    path(f"{HOST}/branches", views.BranchesView.as_view(), name="git-branches"),
    path(f"{HOST}/suggested-tasks", views.SuggestedTasksView.as_view(), name="suggested-tasks"),
    path(f"{HOST}/microagents", views.MicroagentsView.as_view(), name="microagents"),
    path(f"{HOST}/microagents/content", views.MicroagentView.as_view(), name="microagent"),
    path(f"{HOST}/pull-requests", views.PullRequestsView.as_view(), name="pull-requests"),
]
