"""Code that `manage.py grpc_stubs --write` generates from the .proto files; do not edit it by hand."""
