"""A gRPC server and a client of it, by grpcio, without generated code: messages are bytes.

    echo.py serve PORT       serves until its standard input ends; says "ready" first
    echo.py ask ADDRESS      goes through all shapes of calls at ADDRESS; says "well: NAME" for each, or fails
"""

import sys
import threading
import time
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SERVICE = "test.Echo"
LARGE = 3 << 20
OPTIONS = [("grpc.max_receive_message_length", 16 << 20), ("grpc.max_send_message_length", 16 << 20)]

cancelled = []


def unary(request, context):
    sent = dict(context.invocation_metadata())
    context.send_initial_metadata([("x-first", sent.get("x-asked", "-"))])
    context.set_trailing_metadata([("x-last", "trailer"), ("x-data-bin", b"\x00\xff")])
    return request


def fails(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not like this: \u00e4")


def hangs(request, context):
    ended = threading.Event()
    context.add_callback(lambda: (cancelled.append(time.time()), ended.set()))
    ended.wait(20)
    return b""


def when_cancelled(request, context):
    return str(cancelled[-1] if cancelled else 0).encode()


def many(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def breaks(request, context):
    yield b"one"
    context.abort(grpc.StatusCode.DATA_LOSS, "no more")


def total(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def talk(requests, context):
    for request in requests:
        yield request.upper()


def serve(port):
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Fails": grpc.unary_unary_rpc_method_handler(fails),
        "Hangs": grpc.unary_unary_rpc_method_handler(hangs),
        "WhenCancelled": grpc.unary_unary_rpc_method_handler(when_cancelled),
        "Many": grpc.unary_stream_rpc_method_handler(many),
        "Breaks": grpc.unary_stream_rpc_method_handler(breaks),
        "Total": grpc.stream_unary_rpc_method_handler(total),
        "Talk": grpc.stream_stream_rpc_method_handler(talk),
    }
    server = grpc.server(futures.ThreadPoolExecutor(16), options=OPTIONS)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    assert server.add_insecure_port(f"{sys.argv[3]}:{port}"), port
    server.start()
    print("ready", flush=True)
    for line in sys.stdin:
        status = getattr(health_pb2.HealthCheckResponse, line.strip())
        servicer.set("", status)
    server.stop(0)


def ask(address):
    channel = grpc.insecure_channel(address, options=OPTIONS)

    def method(shape, name):
        return getattr(channel, shape)(f"/{SERVICE}/{name}")

    def well(name):
        print(f"well: {name}", flush=True)

    answer, call = method("unary_unary", "Unary").with_call(
        b"hello", metadata=[("x-asked", "yes")], timeout=10
    )
    assert answer == b"hello", answer
    assert dict(call.initial_metadata())["x-first"] == "yes", call.initial_metadata()
    last = dict(call.trailing_metadata())
    assert last["x-last"] == "trailer" and last["x-data-bin"] == b"\x00\xff", last
    assert method("unary_unary", "Unary")(b"", timeout=10) == b""
    well("unary")

    large = bytes(range(256)) * (LARGE // 256)
    assert method("unary_unary", "Unary")(large, timeout=30) == large
    well("large messages")

    answers = list(method("unary_stream", "Many")(b"500", timeout=30))
    assert answers == [str(number).encode() for number in range(500)], answers
    assert not list(method("unary_stream", "Many")(b"0", timeout=30))
    well("server streaming")

    sent = iter([b"x" * 10000] * 100)
    assert method("stream_unary", "Total")(sent, timeout=30) == b"1000000"
    well("client streaming")

    # One by one: nothing may be held back until the other side has ended.
    said, heard = threading.Semaphore(0), []

    def requests():
        for number in range(20):
            yield f"word {number}".encode()
            assert said.acquire(timeout=10)

    for answer in method("stream_stream", "Talk")(requests(), timeout=30):
        heard.append(answer)
        said.release()
    assert heard == [f"WORD {number}".encode() for number in range(20)], heard
    well("bidirectional streaming")

    def failure(call):
        try:
            got = call()
        except grpc.RpcError as error:
            return error
        raise AssertionError(got)

    error = failure(lambda: method("unary_unary", "Fails")(b"", timeout=10))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
    assert error.details() == "not like this: \u00e4", error.details()
    error = failure(lambda: method("unary_unary", "Missing")(b"", timeout=10))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
    well("trailers only")

    stream = method("unary_stream", "Breaks")(b"", timeout=10)
    assert next(stream) == b"one"
    error = failure(lambda: next(stream))
    assert error.code() == grpc.StatusCode.DATA_LOSS and error.details() == "no more", error
    well("a status after messages")

    begun = time.time()
    error = failure(lambda: method("unary_unary", "Hangs")(b"", timeout=0.5))
    ended = time.time()
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    assert ended - begun < 2, ended - begun
    when_known(method("unary_unary", "WhenCancelled"), begun, ended)
    well("deadline")

    begun = time.time()
    call = method("unary_unary", "Hangs").future(b"", timeout=20)
    time.sleep(0.3)
    call.cancel()
    when_known(method("unary_unary", "WhenCancelled"), begun + 0.2, time.time())
    well("cancellation")

    stub = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING, answer
    well("health")


def when_known(method, begun, ended):
    """The server knew within a second that the call was over."""
    until = time.time() + 3
    while time.time() < until:
        when = float(method(b"", timeout=10))
        if when > begun:
            assert when < ended + 1, when - ended
            return
        time.sleep(0.05)
    raise AssertionError("the server was not told")


if sys.argv[1] == "serve":
    serve(sys.argv[2])
else:
    ask(sys.argv[2])
