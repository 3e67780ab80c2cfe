"""The engine's routes that change the confirmation policy and the security analyzer of a conversation."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from compat.engine import options, serializers
from compat.engine.views import ID, SUCCESS, TAGS, EngineView, read_object
from compat.v1.fields import check_fields, refuse
from conversations import services
from lib.routes import RouteFacts


@RouteFacts(replaced_by="/api/v1/conversations/{}")
class PolicyView(EngineView):
    """The route that changes the confirmation policy."""

    permission = "conversations.steer"

    @extend_schema(
        operation_id="runtime_confirmation_policy",
        tags=TAGS,
        parameters=[ID],
        request=serializers.RuntimePolicySerializer,
    )
    def post(self, request: Request, pk: str) -> Response:
        """Change when the agent asks for confirmation. Safe to repeat.

        The policy of the record is the requested one, or a stricter one: `ConfirmRisky` with a threshold below `HIGH`
        becomes `AlwaysConfirm`, and it always asks about actions of unknown risk.
        """
        row = self.get_conversation(pk)
        body = read_object(request)
        check_fields(body, handled=("policy",))
        policy = options.parse_policy(body.get("policy"))
        services.set_confirmation(
            conversation_id=row.pk, confirmation_policy=policy, by=self.request.user
        )
        return Response(SUCCESS)


@RouteFacts(replaced_by="/api/v1/conversations/{}")
class AnalyzerView(EngineView):
    """The route that changes the security analyzer."""

    permission = "conversations.steer"

    @extend_schema(
        operation_id="runtime_security_analyzer",
        tags=TAGS,
        parameters=[ID],
        request=serializers.RuntimeAnalyzerSerializer,
    )
    def post(self, request: Request, pk: str) -> Response:
        """Change how the risk of actions is rated. Null removes the analyzer. Safe to repeat."""
        row = self.get_conversation(pk)
        body = read_object(request)
        check_fields(body, handled=("security_analyzer",))
        if "security_analyzer" not in body:
            raise refuse("security_analyzer", "Send null or an object with a `kind`.")
        analyzer = options.parse_analyzer(body["security_analyzer"])
        services.set_confirmation(
            conversation_id=row.pk, security_analyzer=analyzer, by=self.request.user
        )
        return Response(SUCCESS)
