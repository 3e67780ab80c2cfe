"""Request bodies, query strings and responses of the API of Git hosts.

Responses contain the dataclasses of ``integrations.provider``. The serializers for these dataclasses only describe the
responses in the OpenAPI document.
"""

from typing import Any

from drf_spectacular.utils import extend_schema_serializer
from rest_framework import serializers

PROVIDERS = ("github", "gitlab", "bitbucket", "azure_devops", "enterprise_sso")
TASKS = ("MERGE_CONFLICTS", "FAILING_CHECKS", "UNRESOLVED_COMMENTS", "OPEN_ISSUE")
PAGES_MAX = 10_000
"""The highest page number that compat routes accept."""


class ProviderTokenSerializer(serializers.Serializer[Any]):
    """A connected Git host. Its token is never returned."""

    provider = serializers.ChoiceField(choices=PROVIDERS)
    host = serializers.CharField(
        allow_blank=True,
        help_text="The host name; empty for the default host of the provider, such as github.com.",
    )
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    last_used_at = serializers.DateTimeField(allow_null=True)


@extend_schema_serializer(many=False)  # the response of a `list` action, but not a list
class ProviderTokenListSerializer(serializers.Serializer[Any]):
    items = ProviderTokenSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class IntegrationSerializer(serializers.Serializer[Any]):
    """A Git host that this server supports, and whether you have connected it in the organization."""

    provider = serializers.ChoiceField(choices=PROVIDERS)
    host = serializers.CharField(
        help_text="The host of your token; without a token, the default host of the provider."
    )
    is_connected = serializers.BooleanField(help_text="Whether you have stored a token.")
    connected_at = serializers.DateTimeField(allow_null=True)
    last_used_at = serializers.DateTimeField(
        allow_null=True, help_text="When your token was last used."
    )


@extend_schema_serializer(many=False)
class IntegrationListSerializer(serializers.Serializer[Any]):
    items = IntegrationSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class NewTokenSerializer(serializers.Serializer[Any]):
    """A token for a Git host. It is stored only if the Git host accepts it."""

    token = serializers.CharField(max_length=4_000, write_only=True)
    host = serializers.CharField(max_length=255, required=False, allow_blank=True, allow_null=True)


class GitUserSerializer(serializers.Serializer[Any]):
    id = serializers.CharField()
    login = serializers.CharField()
    avatar_url = serializers.CharField(allow_blank=True)
    company = serializers.CharField(allow_null=True)
    name = serializers.CharField(allow_null=True)
    email = serializers.CharField(allow_null=True)


class ConnectedSerializer(ProviderTokenSerializer):
    user = GitUserSerializer()


class GitRepositorySerializer(serializers.Serializer[Any]):
    id = serializers.CharField()
    full_name = serializers.CharField()
    git_provider = serializers.CharField()
    is_public = serializers.BooleanField()
    stargazers_count = serializers.IntegerField(allow_null=True)
    pushed_at = serializers.CharField(allow_null=True)
    owner_type = serializers.CharField(allow_null=True, help_text="`user` or `organization`.")
    main_branch = serializers.CharField(allow_null=True)


class BranchSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    commit_sha = serializers.CharField(allow_blank=True)
    protected = serializers.BooleanField()
    last_push_date = serializers.CharField(allow_null=True)


class SuggestedTaskSerializer(serializers.Serializer[Any]):
    git_provider = serializers.CharField()
    task_type = serializers.ChoiceField(choices=TASKS)
    repo = serializers.CharField()
    issue_number = serializers.IntegerField()
    title = serializers.CharField(allow_blank=True)


class MicroagentSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    path = serializers.CharField()
    created_at = serializers.CharField(allow_blank=True)


class MicroagentContentSerializer(serializers.Serializer[Any]):
    content = serializers.CharField(allow_blank=True)
    path = serializers.CharField()
    triggers = serializers.ListField(child=serializers.CharField())
    git_provider = serializers.CharField()


class NameListSerializer(serializers.Serializer[Any]):
    items = serializers.ListField(child=serializers.CharField())
    next = serializers.CharField(allow_null=True)


class RepositoryListSerializer(serializers.Serializer[Any]):
    items = GitRepositorySerializer(many=True)
    next = serializers.CharField(allow_null=True)


class BranchListSerializer(serializers.Serializer[Any]):
    items = BranchSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class SuggestedTaskListSerializer(serializers.Serializer[Any]):
    items = SuggestedTaskSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class MicroagentListSerializer(serializers.Serializer[Any]):
    items = MicroagentSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class NewPullRequestSerializer(serializers.Serializer[Any]):
    """A pull request from one branch of a repository into another."""

    repository = serializers.CharField(max_length=300)
    source_branch = serializers.CharField(max_length=300)
    target_branch = serializers.CharField(max_length=300)
    title = serializers.CharField(max_length=500)
    body = serializers.CharField(
        max_length=60_000, required=False, allow_blank=True, trim_whitespace=False, default=""
    )
    draft = serializers.BooleanField(default=True)
    labels = serializers.ListField(
        child=serializers.CharField(max_length=100), max_length=20, required=False
    )
    conversation = serializers.UUIDField(
        required=False,
        allow_null=True,
        help_text="The conversation in which the agent made the change.",
    )


class PullRequestSerializer(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    url = serializers.CharField()


class OrganizationQuery(serializers.Serializer[Any]):
    """A query string with only the parameter ``organization``, which ``GitHostMixin`` reads."""


class PagedQuery(serializers.Serializer[Any]):
    cursor = serializers.RegexField(r"\A[1-9][0-9]{0,3}\Z", required=False)
    limit = serializers.IntegerField(required=False, default=30, min_value=1, max_value=100)


class RepositoryQuery(PagedQuery):
    """The query string of the repository list. ``q`` is words, a full name (``owner/name``) or a URL."""

    q = serializers.CharField(required=False, max_length=200)
    sort = serializers.ChoiceField(
        choices=("pushed", "created", "updated", "full_name"), default="pushed"
    )
    installation = serializers.RegexField(r"\A[A-Za-z0-9_.-]+\Z", required=False, max_length=100)


class BranchQuery(PagedQuery):
    repository = serializers.CharField(max_length=300)
    q = serializers.CharField(required=False, max_length=200)


class RepositoryNameQuery(serializers.Serializer[Any]):
    repository = serializers.CharField(max_length=300)


class FileOfRepositoryQuery(RepositoryNameQuery):
    path = serializers.CharField(max_length=1_000)
