"""The verbs of conversations. Each is safe under concurrency and says whether repeating it is safe."""

from conversations.services.confirming import NotWaiting, answer_confirmation, carry_answer
from conversations.services.files import (
    PathOutside,
    download_archive,
    git_changes,
    git_diff,
    list_files,
    read_file,
    write_file,
)
from conversations.services.ingesting import (
    LogGap,
    Place,
    StaleLease,
    ingest_events,
    note_engine_lost,
    observe_status,
    place_to_follow,
    read_log,
)
from conversations.services.leasing import (
    claim_conversations,
    keep_gateway_open,
    mark_following,
    release_leases,
    renew_leases,
)
from conversations.services.lifecycle import (
    IdempotencyConflict,
    create_conversation,
    delete_conversation,
    destroy_conversation,
    rename,
)
from conversations.services.messaging import (
    UnsendableText,
    deliver_messages,
    interrupt,
    interrupt_agent,
    post_message,
    resume,
    run_agent,
)
from conversations.services.sandboxing import (
    SandboxNotRunning,
    reconcile_sandboxes,
    requeue_lost_work,
    start_conversation,
    stop_all_sandboxes,
    stop_sandbox,
)
from conversations.services.starting import request_start

__all__ = [
    "IdempotencyConflict",
    "LogGap",
    "NotWaiting",
    "PathOutside",
    "Place",
    "SandboxNotRunning",
    "StaleLease",
    "UnsendableText",
    "answer_confirmation",
    "carry_answer",
    "claim_conversations",
    "create_conversation",
    "delete_conversation",
    "deliver_messages",
    "destroy_conversation",
    "download_archive",
    "git_changes",
    "git_diff",
    "ingest_events",
    "interrupt",
    "interrupt_agent",
    "keep_gateway_open",
    "list_files",
    "mark_following",
    "note_engine_lost",
    "observe_status",
    "place_to_follow",
    "post_message",
    "read_file",
    "read_log",
    "reconcile_sandboxes",
    "release_leases",
    "rename",
    "renew_leases",
    "request_start",
    "requeue_lost_work",
    "resume",
    "run_agent",
    "start_conversation",
    "stop_all_sandboxes",
    "stop_sandbox",
    "write_file",
]
