"""Generated from the protos by `manage.py grpc_stubs --write`; not edited by hand."""
