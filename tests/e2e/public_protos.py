"""The messages of grpc.health.v1 and grpc.reflection.v1alpha, as far as the tests speak them.

Both are small public interfaces (github.com/grpc/grpc-proto); the Python packages that hold their stubs are not among
Debian's.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto

# Package: {message: {field: (number, type, or the message that it holds, preceded by * where it is repeated)}}.
_PACKAGES = {
    "grpc.health.v1": {
        "HealthCheckRequest": {"service": (1, "string")},
        "HealthCheckResponse": {"status": (1, "int32")},  # an enum, which is an int32 on the wire
    },
    "grpc.reflection.v1alpha": {
        "ServerReflectionRequest": {
            "file_by_filename": (3, "string"),
            "file_containing_symbol": (4, "string"),
            "list_services": (7, "string"),
        },
        "FileDescriptorResponse": {"file_descriptor_proto": (1, "*bytes")},
        "ServiceResponse": {"name": (1, "string")},
        "ListServiceResponse": {"service": (1, "*ServiceResponse")},
        "ErrorResponse": {"error_code": (1, "int32"), "error_message": (2, "string")},
        "ServerReflectionResponse": {
            "file_descriptor_response": (4, "FileDescriptorResponse"),
            "list_services_response": (6, "ListServiceResponse"),
            "error_response": (7, "ErrorResponse"),
        },
    },
}
_SCALARS = {"string": _FIELD.TYPE_STRING, "bytes": _FIELD.TYPE_BYTES, "int32": _FIELD.TYPE_INT32}


def _describe(package, messages):
    file = descriptor_pb2.FileDescriptorProto(name=package + ".proto", package=package, syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            field = message.field.add(name=field_name, number=number)
            field.label = _FIELD.LABEL_REPEATED if kind.startswith("*") else _FIELD.LABEL_OPTIONAL
            kind = kind.lstrip("*")
            field.type = _SCALARS.get(kind, _FIELD.TYPE_MESSAGE)
            if field.type == _FIELD.TYPE_MESSAGE:
                field.type_name = f".{package}.{kind}"
    return file


_pool = descriptor_pool.DescriptorPool()
for _package, _messages in _PACKAGES.items():
    _pool.Add(_describe(_package, _messages))
_factory = message_factory.MessageFactory(_pool)


def _message(name):
    return _factory.GetPrototype(_pool.FindMessageTypeByName(name))


HEALTH_SERVING = 1
HEALTH_NOT_SERVING = 2


def check_health(channel, service):
    """HEALTH_SERVING or HEALTH_NOT_SERVING; a grpc.RpcError for a service that is not known."""
    request = _message("grpc.health.v1.HealthCheckRequest")(service=service)
    check = channel.unary_unary("/grpc.health.v1.Health/Check", type(request).SerializeToString,
                                _message("grpc.health.v1.HealthCheckResponse").FromString)
    return check(request, timeout=60).status


def reflect(channel, **question):
    """The server's answer to one question: list_services="*", file_containing_symbol=…, file_by_filename=…."""
    request = _message("grpc.reflection.v1alpha.ServerReflectionRequest")(**question)
    method = channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", type(request).SerializeToString,
        _message("grpc.reflection.v1alpha.ServerReflectionResponse").FromString)
    return next(iter(method(iter([request]), timeout=60)))
