"""URL patterns for Git hosts: accounts, repositories, branches, microagents and access tokens."""

from django.urls import path

from compat.git_hosts import views

urlpatterns = [
    path("api/user/info", views.InfoView.as_view(), name="compat-user-info"),
    path(
        "api/user/installations",
        views.InstallationsView.as_view(),
        name="compat-user-installations",
    ),
    path(
        "api/user/repositories", views.RepositoriesView.as_view(), name="compat-user-repositories"
    ),
    path(
        "api/user/search/repositories",
        views.SearchRepositoriesView.as_view(),
        name="compat-user-search-repositories",
    ),
    path(
        "api/user/search/branches",
        views.SearchBranchesView.as_view(),
        name="compat-user-search-branches",
    ),
    path(
        "api/user/suggested-tasks",
        views.SuggestedTasksView.as_view(),
        name="compat-user-suggested-tasks",
    ),
    path(
        "api/user/repository/branches",
        views.BranchesView.as_view(),
        name="compat-user-branches",
    ),
    path(
        "api/user/repository/<path:name>/microagents",
        views.MicroagentsView.as_view(),
        name="compat-user-microagents",
    ),
    path(
        "api/user/repository/<path:name>/microagents/content",
        views.MicroagentView.as_view(),
        name="compat-user-microagent",
    ),
    path("api/add-git-providers", views.AddView.as_view(), name="compat-add-git-providers"),
    path(
        "api/unset-provider-tokens",
        views.UnsetView.as_view(),
        name="compat-unset-provider-tokens",
    ),
]
