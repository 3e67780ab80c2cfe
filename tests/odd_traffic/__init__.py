"""Odd input for everything that is not a form or a REST field: sockets, MCP, streams and raw HTTP.

Every input goes to a real ``run_web`` process. A response 5xx, a close with 1011 and an error in the process' log are
failures.
"""
