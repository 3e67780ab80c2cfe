"""The results of a run as Markdown tables."""

from typing import Any

from tests.conversations.sandboxes.escapes.catalog_view import ATTEMPTS

HARMLESS = {"kill_engine": "succeeds: ends only this sandbox"}
"""Attempts that succeed by design, because they harm only the sandbox itself."""


def judge(name: str, rows: dict[str, Any], *, by_root: bool = False) -> str:
    """Return the word for one attempt under one user of the server: its control must have succeeded.

    ``by_root`` says whether the control succeeded for a server that runs as root.
    """
    control, trial = rows["process"].get(name), rows["bubblewrap"].get(name)
    if control is None or trial is None:
        return "not tried"
    if trial["succeeded"]:
        return HARMLESS.get(name, "**NOT REFUSED**")
    if control["succeeded"]:
        return "refused"
    return "refused (the control needs root)" if by_root else "not tried"


def find_open(results: dict[str, Any]) -> list[str]:
    """Return the titles of the attempts that were not refused."""
    return [
        f"{item.title} ({user})"
        for user, result in results.items()
        for name, item in ATTEMPTS.items()
        if judge(name, result["rows"]) == "**NOT REFUSED**"
    ]


def escapes(results: dict[str, Any]) -> str:
    """Return the escape table. ``results`` has the result of each user: ``root`` and ``user``."""
    lines = [
        "| attempt | plain process | bubblewrap, server as root | bubblewrap, server as an ordinary user |",
        "|---|---|---|---|",
    ]
    group = ""
    for name, item in ATTEMPTS.items():
        if item.group != group:
            group = item.group
            lines.append(f"| **{group}** | | | |")
        controls = [
            user
            for user in results
            if results[user]["rows"]["process"].get(name, {}).get("succeeded")
        ]
        control = {
            0: "refused too",
            1: f"succeeds as {controls[0] if controls else ''}",
            2: "succeeds",
        }[len(controls)]
        words = [
            judge(name, results[user]["rows"], by_root="root" in controls)
            if user in results
            else "not run"
            for user in ("root", "user")
        ]
        lines.append(f"| {item.title} | {control} | {words[0]} | {words[1]} |")
    counts = [
        f"{user}: " + ", ".join(f"{count} {word}" for word, count in count_words(result).items())
        for user, result in results.items()
    ]
    return "\n".join([*lines, "", *counts])


def count_words(result: dict[str, Any]) -> dict[str, int]:
    words = [judge(name, result["rows"]).split(":")[0] for name in ATTEMPTS]
    return {word: words.count(word) for word in dict.fromkeys(words)}


def bounds(result: dict[str, Any]) -> str:
    """Return the table of resources."""
    lines = [
        "| what an agent takes without end | most it took | ended by | after | GET outside before: p50/p99 ms | during |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        kind, peak = row["kind"], row["peak"]
        figure = (
            f"{peak[kind] // 1_000_000:,} MB"
            if kind in ("memory", "disk")
            else f"{peak[kind]:,} {kind}"
        )
        end = row["detail"].split(", so it was stopped")[0] or (
            "**NOTHING**, ended by this test"
            if row["was_unsafe"]
            else "a limit of the kernel; the sandbox goes on"
        )
        times = [f"{row[when]['p50']}/{row[when]['p99']}" for when in ("before", "during")]
        lines.append(
            f"| {name} | {figure} | {end} | {row['ended_after']} s | {times[0]} | {times[1]} |"
        )
    return "\n".join(lines)


def egress(result: dict[str, Any]) -> str:
    """Return the tables of the network rules and of the tools, and the log."""
    lines = ["| request, with the profile *list* | result |", "|---|---|"]
    for row in (*result["rules"], *result["moving"]):
        word = "works" if row["works"] else "refused"
        lines.append(
            f"| {row['title']} | {word if row['expected'] == row['works'] else f'**{word}**'} |"
        )
    lines += ["", "| tool | through the proxy |", "|---|---|"]
    lines += [
        f"| {row['title']} | {'works' if row['works'] else 'does not work'} |"
        for row in result["tools"]
    ]
    lines += [
        "",
        "| time | host | port | address | allowed | reason | protocol |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in result["log"]:
        fields = ("at", "host", "port", "address", "allowed", "reason", "protocol")
        lines.append("| " + " | ".join(str(entry[field]) for field in fields) + " |")
    return "\n".join(lines)
