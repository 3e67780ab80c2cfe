"""Background tasks of accounts. Each task makes one service call."""

from procrastinate.contrib.django import app

from accounts.services import audit_chains


@app.periodic(cron="* * * * *")
@app.task(name="accounts.tasks.anchor_audit_heads", queueing_lock="anchor_audit_heads")
def anchor_audit_heads(timestamp: int) -> None:
    audit_chains.anchor_heads()
